use certplan_http::printable;
use url::Host;
use url::Url;

use super::error::AcmeError;

/// Where URLs of a CA may lead: signed requests, which carry an account's authority, go nowhere else.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    directory: Url,
    allowed: Vec<(String, Option<u16>)>,
}

impl Origin {
    /// Takes the directory's URL and further hosts, `HOST` or `HOST:PORT`.
    pub(super) fn new(directory: &Url, allow_hosts: &[String]) -> Result<Self, AcmeError> {
        let loopback = match directory.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if directory.scheme() != "https" && !(directory.scheme() == "http" && loopback) {
            return Err(AcmeError::Settings {
                reason: format!(
                    "the directory `{}` has to be an https URL (plain http only on a loopback address)",
                    printable(directory.as_str(), 200)
                ),
            });
        }
        let allowed = allow_hosts
            .iter()
            .map(|entry| {
                // The scheme only lets the parser accept the text; no port stays no port, for 0 is nobody's default.
                let url = Url::parse(&format!("acme://{entry}")).ok()?;
                Some((url.host_str()?.to_ascii_lowercase(), url.port()))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| AcmeError::Settings {
                reason: "an entry of `allow_hosts` is neither a host nor HOST:PORT".to_owned(),
            })?;
        Ok(Self { directory: directory.clone(), allowed })
    }

    /// Parses a URL that the server gave, relative ones against the directory, and checks where it leads.
    pub(super) fn url(&self, text: &str) -> Result<Url, AcmeError> {
        let off = || AcmeError::OffOrigin {
            url: printable(text, 200),
            origin: self.directory.origin().ascii_serialization(),
        };
        let url = self.directory.join(text).map_err(|_| off())?;
        if self.permits(&url) { Ok(url) } else { Err(off()) }
    }

    fn permits(&self, url: &Url) -> bool {
        // Credentials in a URL would be sent on, and it is no CA that gives them.
        if url.scheme() != self.directory.scheme() || !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        if url.origin() == self.directory.origin() {
            return true;
        }
        let Some(host) = url.host_str() else { return false };
        self.allowed.iter().any(|(allowed, port)| {
            host.eq_ignore_ascii_case(allowed)
                && match port {
                    Some(port) => url.port_or_known_default() == Some(*port),
                    // Without a port: the scheme's own, or the directory's.
                    None => {
                        url.port().is_none()
                            || url.port_or_known_default() == self.directory.port_or_known_default()
                    }
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(directory: &str, allowed: &[&str]) -> Origin {
        let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
        Origin::new(&Url::parse(directory).unwrap(), &allowed).unwrap()
    }

    #[test]
    fn urls_stay_on_the_directorys_origin() {
        let origin = origin("https://ca.example/directory", &[]);
        assert_eq!(origin.url("https://CA.example:443/a").unwrap().as_str(), "https://ca.example/a");
        assert_eq!(origin.url("/order/1").unwrap().as_str(), "https://ca.example/order/1");
        for bad in [
            "http://ca.example/a",
            "https://ca.example:444/a",
            "https://ca.example.evil.example/a",
            "https://evil.example/ca.example",
            "https://user@ca.example/a",
            "https://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "//evil.example/a",
            "https://",
        ] {
            assert!(matches!(origin.url(bad), Err(AcmeError::OffOrigin { .. })), "{bad}");
        }
    }

    #[test]
    fn other_hosts_have_to_be_allowed() {
        let origin =
            origin("https://ca.example/directory", &["cert.example", "other.example:8443", "[::1]:14000"]);
        for good in ["https://cert.example/1", "https://other.example:8443/1", "https://[::1]:14000/"] {
            assert!(origin.url(good).is_ok(), "{good}");
        }
        for bad in ["https://cert.example:1/", "https://other.example/", "http://cert.example/"] {
            assert!(origin.url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in
            ["http://127.0.0.1:14000/dir", "http://[::1]/dir", "http://localhost/dir", "https://ca.example/"]
        {
            assert!(Origin::new(&Url::parse(good).unwrap(), &[]).is_ok(), "{good}");
        }
        for bad in ["http://ca.example/dir", "http://10.0.0.1/dir", "file:///dir"] {
            assert!(Origin::new(&Url::parse(bad).unwrap(), &[]).is_err(), "{bad}");
        }
        assert!(Origin::new(&Url::parse("https://ca.example/").unwrap(), &["a b".to_owned()]).is_err());
    }
}
