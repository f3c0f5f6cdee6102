//! Proxies of the environment: the library finds them, and passes over what it cannot read.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::error::HttpError;

/// The variables that name a proxy, each in both cases of letters as curl and others read them.
const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Fails where a variable that names a proxy is none: to go past it would be to leave by another way than was asked for.
pub(crate) fn check() -> Result<(), HttpError> {
    VARIABLES.iter().try_for_each(|variable| match variable_of(variable) {
        Some(value) if !value.is_empty() && !is_proxy(&value) => {
            // The value may hold a password.
            let reason =
                format!("`{variable}` is not the URL of a proxy: write `http://HOST:PORT`, or unset it");
            Err(HttpError::Settings { reason })
        }
        _ => Ok(()),
    })
}

/// The proxy through which a URL is reached, as host and port without credentials.
pub(crate) fn of(url: &Url) -> Option<String> {
    let intercept = Matcher::from_env().intercept(&url.as_str().parse::<Uri>().ok()?)?;
    intercept.uri().authority().map(ToString::to_string)
}

/// Whether the library would go through it: an http or https URL, or a host and a port. The port is part of the latter,
/// for a word alone is more likely a mistake.
fn is_proxy(value: &str) -> bool {
    let Ok(uri) = value.parse::<Uri>() else { return false };
    match uri.scheme_str() {
        Some(scheme) => matches!(scheme, "http" | "https") && uri.host().is_some_and(|host| !host.is_empty()),
        None => uri.authority().is_some_and(|authority| authority.port_u16().is_some()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the library reads them from the environment as well")]
fn variable_of(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_told_from_what_is_none() {
        for proxy in [
            "http://proxy:3128",
            "https://user:p%40ss@proxy.example:3128/",
            "http://[::1]:3128",
            "http://proxy",
            "proxy.example:3128",
            "user:password@proxy:3128",
        ] {
            assert!(is_proxy(proxy), "{proxy}");
            // What passes here is what the library takes.
            let matcher = Matcher::builder().all(proxy).build();
            assert!(matcher.intercept(&Uri::from_static("https://ca.example/")).is_some(), "{proxy}");
        }
        for other in
            ["proxy", "http://", "://proxy", "ftp://proxy:21", "socks5://proxy:1080", "not a url", "/path"]
        {
            assert!(!is_proxy(other), "{other}");
        }
    }
}
