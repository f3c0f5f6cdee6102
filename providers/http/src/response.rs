use std::time::Duration;

use bytes::Bytes;
use certplan_provider::ProviderError;
use certplan_provider::Secret;
use http::HeaderMap;
use http::StatusCode;
use http::header::AGE;
use http::header::DATE;
use http::header::LOCATION;
use http::header::RETRY_AFTER;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::text::printable;

/// The longest `Retry-After` that is believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// A whole answer, whatever its status.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
    /// What `Retry-After` asks for, counted from the server's own `Date` where it sends one; at most 30 days.
    pub retry_after: Option<Duration>,
    /// The request, as in [`Request::target`](crate::Request::target).
    pub target: String,
    secrets: Vec<Secret>,
}

impl Response {
    pub(crate) fn new(
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
        target: String,
        secrets: Vec<Secret>,
    ) -> Self {
        let retry_after = retry_after(&headers);
        Self { status, headers, body, retry_after, target, secrets }
    }

    /// Passes success (2xx) on, and makes an error of everything else, classified by its status.
    ///
    /// `what` says what was being done, as in "listing zones". 401 and 403 are `Auth`; 404 and 410 `NotFound`; 409 and
    /// 412 `Conflict`; 429 `RateLimited`; 408, 425 and 5xx `Transient`; the rest `Invalid`. Services that mean something
    /// else by a status look at [`status`](Self::status) first.
    pub fn check(self, what: &str) -> Result<Self, ProviderError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let said = self.excerpt();
        let mut message = format!("{what} failed: {} answered {}", self.target, self.status.as_u16());
        if self.status.is_redirection() {
            message.push_str(" (redirects are not followed)");
        }
        if !said.is_empty() {
            message.push_str(": ");
            message.push_str(&said);
        }
        Err(match self.status.as_u16() {
            401 | 403 => ProviderError::auth(message),
            404 | 410 => ProviderError::not_found(message),
            409 | 412 => ProviderError::conflict(message),
            429 => ProviderError::rate_limited(message, self.retry_after),
            503 if self.retry_after.is_some() => ProviderError::rate_limited(message, self.retry_after),
            408 | 425 | 500..=599 => ProviderError::transient(message),
            _ => ProviderError::invalid(message),
        })
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`ProviderError::Transient`] when it is something else: that is a proxy or a half-working server speaking.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let said = self.excerpt();
            // The position is safe; serde's words may quote the body raw.
            ProviderError::transient(format!(
                "the answer to {} is not the expected JSON (line {}, column {}): {said}",
                self.target,
                error.line(),
                error.column(),
            ))
        })
    }

    /// What the body says in at most 200 characters: the message of a JSON error where one is found, without control
    /// characters and without the request's secrets.
    pub fn excerpt(&self) -> String {
        let text = message_in(&self.body).unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let mut text = text;
        for secret in &self.secrets {
            if !secret.expose().is_empty() {
                text = text.replace(secret.expose(), "[secret]");
            }
        }
        printable(&text, 200)
    }

    /// A header as text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What the server's clock says, by its `Date` ([RFC 9110, section 6.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1))
    /// and the `Age` of what a cache kept ([RFC 9111, section 5.1](https://www.rfc-editor.org/rfc/rfc9111#section-5.1)).
    pub fn server_time(&self) -> Option<Timestamp> {
        let age = self.header(AGE).and_then(|age| age.trim().parse::<u32>().ok()).unwrap_or_default();
        http_date(self.header(DATE)?)?.checked_add(Duration::from_secs(age.into())).ok()
    }

    /// Where the server says the resource is.
    pub fn location(&self) -> Option<&str> {
        self.header(LOCATION)
    }
}

/// The message in the JSON error of common APIs: `error`, `message`, `detail` or `errors`, at the top or one level down.
fn message_in(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    fn find(value: &Value, depth: u8) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(items) => {
                let found: Vec<String> =
                    items.iter().take(5).filter_map(|item| find(item, depth + 1)).collect();
                (!found.is_empty()).then(|| found.join("; "))
            }
            Value::Object(map) if depth < 3 => ["message", "detail", "error", "errors", "title"]
                .iter()
                .find_map(|key| map.get(*key).and_then(|value| find(value, depth + 1))),
            _ => None,
        }
    }
    find(&value, 0)
}

/// Understands both forms of the header ([RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        // More digits than fit mean "very long".
        text.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs)
    } else {
        let at = http_date(text)?;
        // The server's clock against itself: ours may be off.
        let now = headers
            .get(DATE)
            .and_then(|value| value.to_str().ok())
            .and_then(http_date)
            .unwrap_or_else(Timestamp::now);
        Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use certplan_provider::ProviderErrorKind;
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, headers: &[(&'static str, &str)], body: &str, secrets: &[&str]) -> Response {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let secrets = secrets.iter().map(|secret| Secret::new((*secret).to_owned())).collect();
        let status = StatusCode::from_u16(status).unwrap();
        Response::new(status, headers, Bytes::from(body.to_owned()), "`GET http://a/`".to_owned(), secrets)
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let asked = |headers: &[(&'static str, &str)]| response(429, headers, "", &[]).retry_after;
        assert_eq!(asked(&[("retry-after", " 120 ")]), Some(Duration::from_secs(120)));
        let date =
            [("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), ("date", "Fri, 31 Dec 1999 23:58:59 GMT")];
        assert_eq!(asked(&date), Some(Duration::from_secs(60)));
        let past = [("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")];
        assert_eq!(asked(&past), Some(Duration::ZERO), "by our own clock it is long past");
        assert_eq!(asked(&[("retry-after", "99999999999999999999999")]), Some(LONGEST_RETRY_AFTER));
        for nonsense in ["", "soon", "-5", "1.5", "1 2"] {
            assert_eq!(asked(&[("retry-after", nonsense)]), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_time_of_a_server_counts_what_a_cache_added() {
        let time = |headers: &[(&'static str, &str)]| {
            response(200, headers, "", &[]).server_time().map(|time| time.to_string())
        };
        let date = ("date", "Fri, 31 Dec 1999 23:58:59 GMT");
        assert_eq!(time(&[date]).as_deref(), Some("1999-12-31T23:58:59Z"));
        assert_eq!(time(&[date, ("age", " 61 ")]).as_deref(), Some("2000-01-01T00:00:00Z"));
        for headers in [&[][..], &[("date", "yesterday")], &[("age", "5")]] {
            assert_eq!(time(headers), None, "{headers:?}");
        }
        for age in ["-1", "old", "99999999999999999999"] {
            assert_eq!(time(&[date, ("age", age)]).as_deref(), Some("1999-12-31T23:58:59Z"), "{age}");
        }
    }

    #[test]
    fn statuses_are_classified_by_what_the_caller_does_next() {
        for (status, kind) in [
            (302, ProviderErrorKind::Invalid),
            (400, ProviderErrorKind::Invalid),
            (401, ProviderErrorKind::Auth),
            (403, ProviderErrorKind::Auth),
            (404, ProviderErrorKind::NotFound),
            (409, ProviderErrorKind::Conflict),
            (412, ProviderErrorKind::Conflict),
            (422, ProviderErrorKind::Invalid),
            (429, ProviderErrorKind::RateLimited),
            (500, ProviderErrorKind::Transient),
            (503, ProviderErrorKind::Transient),
        ] {
            assert_eq!(response(status, &[], "", &[]).check("it").unwrap_err().kind(), kind, "{status}");
        }
        assert!(response(204, &[], "", &[]).check("it").is_ok());
    }

    #[test]
    fn messages_quote_what_the_service_said_and_no_secret() {
        let body = r#"{"errors":[{"code":1,"message":"bad token t0ps3cret\u001b[2J"},{"message":"second"}]}"#;
        let error = response(400, &[], body, &["t0ps3cret"]).check("listing zones").unwrap_err();
        assert_eq!(
            error.to_string(),
            "listing zones failed: `GET http://a/` answered 400: bad token [secret] [2J; second"
        );
        let html = response(502, &[], "<html>\n<h1>Bad Gateway</h1>", &[]).check("it").unwrap_err();
        assert!(html.to_string().ends_with("answered 502: <html> <h1>Bad Gateway</h1>"), "{html}");
    }

    #[test]
    fn a_body_that_is_no_json_is_quoted_in_short() {
        let error = response(200, &[], &"x\u{7}".repeat(5000), &[]).json::<Vec<String>>().unwrap_err();
        assert_eq!(error.kind(), ProviderErrorKind::Transient);
        assert!(error.to_string().len() < 400 && !error.to_string().contains('\u{7}'), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_headers_and_bodies_never_panic(value in "[ -~]{0,40}", body in any::<String>()) {
            let response = response(400, &[("retry-after", &value)], &body, &["s"]);
            prop_assert!(response.retry_after.is_none_or(|asked| asked <= LONGEST_RETRY_AFTER));
            let _ = response.check("it");
        }
    }
}
