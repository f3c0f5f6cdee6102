use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

/// Why a provider could not do what it was asked, classified by what the caller does next.
///
/// `message` says what happened, names the resource in backticks, never holds a secret and does not repeat `source`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The credential is missing, wrong or lacks a permission: nothing helps but another credential.
    #[error("{message}")]
    Auth {
        /// What was refused.
        message: String,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// Somebody else changed the resource: read it again and decide anew.
    #[error("{message}")]
    Conflict {
        /// What differs.
        message: String,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// The request can never succeed as it is.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// The resource is not there.
    #[error("{message}")]
    NotFound {
        /// What is missing.
        message: String,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// The service asks for fewer calls.
    #[error("{message}")]
    RateLimited {
        /// What the service said.
        message: String,
        /// How long to wait, when the service said so.
        retry_after: Option<Duration>,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// The same request may succeed later; whether it took effect is unknown.
    #[error("{message}")]
    Transient {
        /// What happened.
        message: String,
        /// What lies below.
        #[source]
        source: Option<Arc<dyn StdError + Send + Sync>>,
    },
}

/// The message of an error with the messages of its sources, for places that show one line.
pub fn message_of(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // A transparent wrapper says the same as what it wraps.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// The class of a [`ProviderError`], for matching and for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderErrorKind {
    /// See [`ProviderError::Auth`].
    Auth,
    /// See [`ProviderError::Conflict`].
    Conflict,
    /// See [`ProviderError::Invalid`].
    Invalid,
    /// See [`ProviderError::NotFound`].
    NotFound,
    /// See [`ProviderError::RateLimited`].
    RateLimited,
    /// See [`ProviderError::Transient`].
    Transient,
}

macro_rules! constructors {
    ($($function:ident => $variant:ident),*) => {$(
        #[doc = concat!("An error of the class [`ProviderError::", stringify!($variant), "`].")]
        pub fn $function(message: impl Into<String>) -> Self {
            Self::$variant { message: message.into(), source: None }
        }
    )*};
}

impl ProviderError {
    constructors!(auth => Auth, conflict => Conflict, invalid => Invalid, not_found => NotFound, transient => Transient);

    /// An error of the class [`ProviderError::RateLimited`].
    pub fn rate_limited(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::RateLimited { message: message.into(), retry_after, source: None }
    }

    /// The same error with what lies below it.
    pub fn with_source(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        match &mut self {
            Self::Auth { source, .. }
            | Self::Conflict { source, .. }
            | Self::Invalid { source, .. }
            | Self::NotFound { source, .. }
            | Self::RateLimited { source, .. }
            | Self::Transient { source, .. } => *source = Some(Arc::from(cause.into())),
        }
        self
    }

    /// The class.
    pub const fn kind(&self) -> ProviderErrorKind {
        match self {
            Self::Auth { .. } => ProviderErrorKind::Auth,
            Self::Conflict { .. } => ProviderErrorKind::Conflict,
            Self::Invalid { .. } => ProviderErrorKind::Invalid,
            Self::NotFound { .. } => ProviderErrorKind::NotFound,
            Self::RateLimited { .. } => ProviderErrorKind::RateLimited,
            Self::Transient { .. } => ProviderErrorKind::Transient,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::RateLimited { .. } | Self::Transient { .. })
    }
}
