use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use certplan_provider::ProviderError;

/// Why there is no response.
///
/// `target` is the request's method and URL without credentials, query and fragment.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The body is larger than the client takes.
    #[error("the answer to {target} is larger than {limit} bytes")]
    BodyTooLarge {
        /// The request.
        target: String,
        /// The limit in bytes, after decompression.
        limit: usize,
    },
    /// The run was cancelled before the request was sent.
    #[error("{target} was not sent, for the run was cancelled")]
    Cancelled {
        /// The request.
        target: String,
    },
    /// No connection came about: the server has not seen the request.
    #[error("cannot connect for {target}: {reason}")]
    Connect {
        /// The request.
        target: String,
        /// What the innermost cause says.
        reason: String,
    },
    /// The connection failed while the request or the answer was under way: the server may have acted.
    #[error("{target} failed: {reason}")]
    Interrupted {
        /// The request.
        target: String,
        /// What the innermost cause says.
        reason: String,
    },
    /// The client cannot be built from its settings.
    #[error("the HTTP client cannot be set up: {reason}")]
    Settings {
        /// What is wrong.
        reason: String,
    },
    /// The server's certificate is not trusted, or there is no common TLS version or cipher.
    #[error("TLS with the server of {target} failed: {reason}")]
    Tls {
        /// The request.
        target: String,
        /// What the TLS library says.
        reason: String,
    },
    /// No answer in time: the server may have acted.
    #[error("no answer to {target} within {} s", after.as_secs_f32())]
    Timeout {
        /// The request.
        target: String,
        /// The bound that passed.
        after: Duration,
    },
}

impl HttpError {
    /// Whether it is certain that the server has not seen the request.
    pub const fn nothing_sent(&self) -> bool {
        matches!(
            self,
            Self::Cancelled { .. } | Self::Connect { .. } | Self::Settings { .. } | Self::Tls { .. }
        )
    }

    /// Whether the same request may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Interrupted { .. } | Self::Timeout { .. })
    }

    /// Classifies what the library says.
    ///
    /// `proxy` is what the request went through: when no connection comes about, it and not the server is to blame.
    pub(crate) fn from_reqwest(
        error: &reqwest::Error,
        target: String,
        bound: Duration,
        proxy: Option<&str>,
    ) -> Self {
        let through = |reason: String| match proxy {
            Some(proxy) => format!("through the proxy `{proxy}`, which the environment names: {reason}"),
            None => reason,
        };
        if let Some(reason) = tls_failure(error) {
            return Self::Tls { target, reason: through(reason) };
        }
        // A connection that takes too long counts as a timeout there as well, and is one that sent nothing.
        if error.is_connect() {
            let reason =
                if error.is_timeout() { "no connection in time".to_owned() } else { innermost(error) };
            return Self::Connect { target, reason: through(reason) };
        }
        if error.is_timeout() {
            return Self::Timeout { target, after: bound };
        }
        Self::Interrupted { target, reason: innermost(error) }
    }
}

impl From<HttpError> for ProviderError {
    fn from(error: HttpError) -> Self {
        let message = error.to_string();
        match error {
            HttpError::BodyTooLarge { .. } | HttpError::Settings { .. } | HttpError::Tls { .. } => {
                Self::invalid(message)
            }
            HttpError::Cancelled { .. }
            | HttpError::Connect { .. }
            | HttpError::Interrupted { .. }
            | HttpError::Timeout { .. } => Self::transient(message),
        }
    }
}

/// What the innermost cause says, which is the sentence that helps; the library's own levels only add their names.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    crate::text::printable(&cause.to_string(), 200)
}

fn tls_failure(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return certain(tls).then(|| crate::text::printable(&tls_reason(tls), 300));
        }
        // `source` of an I/O error skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What a TLS error says. Of those of the verifier that the library has no variant for it prints the code.
fn tls_reason(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(cause))) = error
    else {
        return error.to_string();
    };
    match cause.to_string().as_str() {
        // webpki has no words for it but the name of its variant.
        "CaUsedAsEndEntity" => "invalid peer certificate: it is a CA's, and not one for a server".to_owned(),
        other => format!("invalid peer certificate: {other}"),
    }
}

/// Whether a TLS error comes from the handshake and stays as long as nobody changes something.
const fn certain(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::UnsupportedNameType
            | rustls::Error::AlertReceived(
                rustls::AlertDescription::HandshakeFailure
                    | rustls::AlertDescription::ProtocolVersion
                    | rustls::AlertDescription::UnrecognisedName
                    | rustls::AlertDescription::InsufficientSecurity
            )
    )
}
