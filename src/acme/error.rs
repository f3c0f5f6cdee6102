use std::time::Duration;

use certplan_http::HttpError;
use certplan_http::Response;
use certplan_http::printable;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::problem::Problem;
use crate::model::CertName;
use crate::model::NameSet;

/// Why the CA did not do what it was asked, classified by what the caller does next.
///
/// Messages are one line, hold what the server said without control characters, and no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The CA does not know the account, or no longer: nothing works until somebody looks at it.
    #[error("the CA does not know the account: {0}")]
    AccountDoesNotExist(Problem),
    /// The certificate that an order says it replaces was replaced already, or the CA refuses `replaces` for another
    /// reason: ask once more without it.
    #[error("the CA refuses to count the order as a replacement: {0}")]
    AlreadyReplaced(Problem),
    /// The CA refuses the certificate signing request, its key for example.
    #[error("the CA refuses the certificate signing request: {0}")]
    BadCsr(Problem),
    /// The CA refused every nonce that it gave out.
    #[error("the CA refused {attempts} nonces in a row that it had just given out")]
    BadNonce {
        /// How often the request was sent.
        attempts: u32,
    },
    /// The run is to end.
    #[error("the run was cancelled")]
    Cancelled,
    /// A new account needs an external account binding.
    #[error("the CA needs an external account binding (`eab`) for a new account")]
    ExternalAccountRequired,
    /// The order, its authorization or the CSR is not for the names that were asked for: it is never finalized.
    #[error("the names differ from those asked for: {}", differences(missing, extra))]
    IdentifiersDiffer {
        /// Names that were asked for and are not there.
        missing: NameSet,
        /// What is there and was not asked for.
        extra: Vec<String>,
    },
    /// The CA does not offer the profile.
    #[error("the CA refuses the profile: {0}")]
    InvalidProfile(Problem),
    /// A key cannot be used.
    #[error("{reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// The server's answer cannot be understood.
    #[error("the answer to {request} cannot be used: {reason}")]
    Malformed {
        /// The request.
        request: String,
        /// What is wrong with the answer.
        reason: String,
        /// The order that the answer was about, when `Location` named one: it exists all the same.
        order: Option<String>,
    },
    /// The resource is not there: an order that expired, for example.
    #[error("{request}: the CA does not know this resource")]
    NotFound {
        /// The request.
        request: String,
    },
    /// The server named a URL on another origin than its directory's.
    #[error(
        "the CA names `{url}`, which is not on the directory's origin {origin}: add its host to `allow_hosts` if that is right"
    )]
    OffOrigin {
        /// The URL, printable.
        url: String,
        /// The directory's origin.
        origin: String,
    },
    /// The order cannot be finalized yet: poll it.
    #[error("the order is not ready: {0}")]
    OrderNotReady(Problem),
    /// Any other problem, which comes again when the same is asked again.
    #[error("the CA refused: {0}")]
    Problem(Problem),
    /// The CA asks for fewer requests, or a rate limit is used up.
    #[error("the CA's rate limit is reached{}: {message}", after(*retry_after))]
    RateLimited {
        /// How long to wait, when the CA said so, in a header or in words.
        retry_after: Option<Duration>,
        /// What the CA said.
        message: String,
    },
    /// The client cannot be set up.
    #[error("{reason}")]
    Settings {
        /// What is wrong.
        reason: String,
    },
    /// The CA has not finished within the time that the run waits: the same can be asked again later.
    #[error("{what} took longer than this run waits{}", after(*retry_after))]
    Timeout {
        /// What was waited for.
        what: String,
        /// When the CA suggests to ask again.
        retry_after: Option<Duration>,
    },
    /// There is no answer. Whether the request had an effect is unknown unless [`HttpError::nothing_sent`] says so.
    #[error(transparent)]
    Transport(#[from] HttpError),
    /// The server is not able to answer: it, or what stands before it, says so.
    #[error("the CA is not available{}: {message}", after(*retry_after))]
    Unavailable {
        /// When it suggests to ask again.
        retry_after: Option<Duration>,
        /// Its status and words.
        message: String,
    },
    /// The CA does not offer what is asked for.
    #[error("the CA does not offer {feature}")]
    Unsupported {
        /// What is missing.
        feature: &'static str,
    },
    /// Somebody has to do something at the CA, agree to new terms or lift a pause: repeating does not help.
    #[error("the CA wants its user to act{}: {message}", visit(url))]
    UserActionRequired {
        /// What the CA said.
        message: String,
        /// The page to visit.
        url: Option<String>,
    },
}

impl AcmeError {
    /// Whether the same may succeed later without anybody changing anything.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::BadNonce { .. }
            | Self::Cancelled
            | Self::OrderNotReady(_)
            | Self::RateLimited { .. }
            | Self::Timeout { .. }
            | Self::Unavailable { .. } => true,
            Self::Transport(error) => error.is_transient(),
            _ => false,
        }
    }

    /// How long the server asks to wait.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. }
            | Self::Timeout { retry_after, .. }
            | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the request may have had its effect although there is an error.
    pub const fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::Transport(error) => !error.nothing_sent(),
            Self::Malformed { .. } | Self::Unavailable { .. } => true,
            _ => false,
        }
    }

    /// The problem document behind the error, where there is one.
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::AccountDoesNotExist(problem)
            | Self::AlreadyReplaced(problem)
            | Self::BadCsr(problem)
            | Self::InvalidProfile(problem)
            | Self::OrderNotReady(problem)
            | Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    pub(super) fn malformed(response: &Response, reason: impl Into<String>) -> Self {
        Self::Malformed { request: response.target.clone(), reason: reason.into(), order: None }
    }

    /// Classifies an answer that is no success.
    pub(super) fn from_response(response: &Response) -> Self {
        let request = response.target.clone();
        let status = response.status.as_u16();
        let retry_after = response.retry_after;
        let Some(problem) = Problem::from_json(&response.body) else {
            // A proxy or load balancer, or an empty body.
            let said = response.excerpt();
            let message =
                format!("{request} answered {status}{}{said}", if said.is_empty() { "" } else { ": " });
            return match status {
                404 | 410 => Self::NotFound { request },
                429 => Self::RateLimited { retry_after, message },
                408 | 500..=599 => Self::Unavailable { retry_after, message },
                _ => Self::Malformed { request, reason: format!("{status}: {said}"), order: None },
            };
        };
        match problem.kind.as_str() {
            "accountDoesNotExist" => Self::AccountDoesNotExist(problem),
            "alreadyReplaced" => Self::AlreadyReplaced(problem),
            "badCSR" => Self::BadCsr(problem),
            "badNonce" => Self::BadNonce { attempts: 1 },
            "externalAccountRequired" => Self::ExternalAccountRequired,
            "invalidProfile" => Self::InvalidProfile(problem),
            "orderNotReady" => Self::OrderNotReady(problem),
            "rateLimited" if is_pause(&problem) => Self::user_action(&problem, None),
            "rateLimited" => Self::RateLimited {
                retry_after: retry_after.or_else(|| in_words(&problem.detail, server_time(response))),
                message: problem.to_string(),
            },
            "userActionRequired" => {
                Self::user_action(&problem, links(response, "terms-of-service").into_iter().next())
            }
            _ if status == 404 => Self::NotFound { request },
            _ if status == 429 => Self::RateLimited { retry_after, message: problem.to_string() },
            _ if status >= 500 || status == 408 => {
                Self::Unavailable { retry_after, message: format!("{request} answered {status}: {problem}") }
            }
            _ => Self::Problem(problem),
        }
    }

    fn user_action(problem: &Problem, link: Option<String>) -> Self {
        Self::UserActionRequired {
            message: problem.to_string(),
            url: problem.url().map(str::to_owned).or(link),
        }
    }
}

/// Let's Encrypt pauses an account for names that failed for too long, as a `rateLimited` that never ends by itself.
fn is_pause(problem: &Problem) -> bool {
    let detail = problem.detail.to_ascii_lowercase();
    (detail.contains("unpause") || detail.contains("temporarily prevented") || detail.contains("paused"))
        && problem.url().is_some()
}

/// Let's Encrypt says in words when a limit allows more: `retry after 2026-11-25 10:00:00 UTC`.
fn in_words(detail: &str, now: Timestamp) -> Option<Duration> {
    let rest = detail.split("retry after ").nth(1)?;
    let (date, _) = rest.split_once(" UTC")?;
    let at = date.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The server's own time, for ours may be off.
#[expect(clippy::disallowed_methods, reason = "our clock stands in for a server that sends no date")]
fn server_time(response: &Response) -> Timestamp {
    response.server_time().unwrap_or_else(Timestamp::now)
}

/// The targets of the `Link` headers with a relation ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)), at most 20.
pub(super) fn links(response: &Response, relation: &str) -> Vec<String> {
    let mut found = Vec::new();
    for value in response.headers.get_all(http::header::LINK) {
        let Ok(mut text) = value.to_str() else { continue };
        while let Some(start) = text.find('<') {
            let Some(length) = text[start..].find('>') else { break };
            let target = &text[start + 1..start + length];
            let rest = &text[start + length + 1..];
            let end = rest.find(",<").or_else(|| rest.find(", <")).unwrap_or(rest.len());
            let matches = rest[..end].split(';').any(|parameter| {
                parameter.trim().strip_prefix("rel=").is_some_and(|value| {
                    value
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|word| word.eq_ignore_ascii_case(relation))
                })
            });
            if matches && found.len() < 20 {
                found.push(printable(target, 2000));
            }
            text = &rest[end..];
        }
    }
    found
}

fn after(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |asked| format!(" (it asks to wait {})", duration(asked)))
}

/// A duration for people: seconds below two minutes, then minutes, then hours.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

fn visit(url: &Option<String>) -> String {
    url.as_ref().map_or_else(String::new, |url| format!(" (visit {url})"))
}

fn differences(missing: &NameSet, extra: &[String]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(CertName::to_string).collect();
        parts.push(format!("`{}` missing", names.join("`, `")));
    }
    if !extra.is_empty() {
        parts.push(format!("`{}` not asked for", extra.join("`, `")));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_in_a_rate_limit_is_understood() {
        let detail = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, \
                      retry after 2026-11-25 10:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/";
        let now = "2026-11-25T09:30:00Z".parse().unwrap();
        assert_eq!(in_words(detail, now), Some(Duration::from_secs(1800)));
        assert_eq!(in_words(detail, "2026-11-26T00:00:00Z".parse().unwrap()), Some(Duration::ZERO));
        for nonsense in ["", "retry after ", "retry after tomorrow UTC", "retry after 2026-99-99 UTC"] {
            assert_eq!(in_words(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn durations_are_for_people() {
        for (seconds, text) in [(5, "5 s"), (119, "119 s"), (121, "3 min"), (86_400, "24 h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
