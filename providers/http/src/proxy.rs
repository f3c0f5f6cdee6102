//! Proxies of the environment: the library finds them, and passes over what it cannot read.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::error::HttpError;

/// Fails where the variable that names the proxy of a URL names none: to go past it would be to leave by another way than was
/// asked for.
pub(crate) fn check(url: &Url) -> Result<(), HttpError> {
    let of_scheme = match url.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy"],
        _ => ["HTTP_PROXY", "http_proxy"],
    };
    // The first that is set, as the library reads them.
    let first = |names: [&'static str; 2]| {
        let set = names.into_iter().find_map(|name| Some((name, variable(name)?)));
        set.filter(|(_, value)| !value.is_empty())
    };
    let Some((name, value)) = first(of_scheme).or_else(|| first(["ALL_PROXY", "all_proxy"])) else {
        return Ok(());
    };
    if is_proxy(&value) || is_direct(url) {
        return Ok(());
    }
    // The value may hold a password.
    let reason = format!("`{name}` names no proxy that can be used: write `http://HOST:PORT`, or unset it");
    Err(HttpError::Settings { reason })
}

/// The proxy through which a URL is reached, as host and port.
pub(crate) fn of(url: &Url) -> Option<String> {
    let intercept = Matcher::from_env().intercept(&url.as_str().parse::<Uri>().ok()?)?;
    let uri = intercept.uri();
    let host = uri.host()?;
    Some(uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Whether `NO_PROXY` lets a URL be reached without one.
fn is_direct(url: &Url) -> bool {
    let Some(no) = variable("NO_PROXY").or_else(|| variable("no_proxy")) else { return false };
    let anything = Matcher::builder().all("http://proxy").no(no).build();
    url.as_str().parse::<Uri>().is_ok_and(|uri| anything.intercept(&uri).is_none())
}

/// Whether the library would go through it: an http or https URL, or a host and a port. The port is part of the latter,
/// for a word alone is more likely a mistake; of two `@`, one would be shown as a part of the host.
fn is_proxy(value: &str) -> bool {
    let Ok(uri) = value.parse::<Uri>() else { return false };
    let Some(authority) = uri.authority().filter(|authority| authority.as_str().matches('@').count() <= 1)
    else {
        return false;
    };
    match uri.scheme_str() {
        Some(scheme) => matches!(scheme, "http" | "https") && !authority.host().is_empty(),
        None => authority.port_u16().is_some(),
    }
}

fn variable(name: &str) -> Option<String> {
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
        for other in [
            "proxy",
            "http://",
            "://proxy",
            "ftp://proxy:21",
            "socks5://proxy:1080",
            "not a url",
            "/path",
            "http://user:p@ss@proxy:3128",
        ] {
            assert!(!is_proxy(other), "{other}");
        }
    }
}
