use std::path::PathBuf;

use certplan_provider::Complaint;
use certplan_provider::SecretRef;
use certplan_provider::forbidden_host;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use url::Url;

/// A PowerDNS Authoritative Server, through its HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PowerDnsConfig {
    /// Where the server's web server is: `http://127.0.0.1:8081`. A path before `/api/v1`, as a proxy may add one, belongs
    /// to it.
    #[schemars(extend("examples" = ["http://127.0.0.1:8081"]))]
    pub url: String,
    /// The server's `api-key`.
    pub api_key: SecretRef,
    /// The server's identifier in its API.
    #[serde(default = "localhost")]
    pub server_id: String,
    /// Certificates in PEM to trust beside the system's, for an `https` URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<PathBuf>,
    /// The time to live of new TXT records in seconds; by default what certplan uses everywhere. Where there are records
    /// already, theirs stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub ttl: Option<u32>,
}

fn localhost() -> String {
    "localhost".to_owned()
}

impl PowerDnsConfig {
    /// Reads the URL of the server in the API, or says everything that is wrong with the block.
    pub(crate) fn check(&self) -> Result<Url, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let url = match Url::parse(&self.url) {
            Ok(url) => Some(url),
            Err(error) => {
                let complaint = Complaint::new("/url", format!("this is not a URL: {error}"));
                complaints.push(complaint.with_help("write `http://127.0.0.1:8081`"));
                None
            }
        };
        if let Some(url) = &url {
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                let complaint = Complaint::new("/url", "this is not an http or https URL");
                complaints.push(complaint.with_help("write `http://127.0.0.1:8081`"));
            }
            if let Some(why) = url.host_str().and_then(forbidden_host) {
                complaints.push(Complaint::new("/url", format!("the host {why}")));
            }
            if !url.username().is_empty() || url.password().is_some() {
                complaints.push(Complaint::new("/url", "a URL must not hold a user name or a password"));
            }
            if url.query().is_some() || url.fragment().is_some() {
                complaints.push(Complaint::new("/url", "a query or a fragment does not belong here"));
            }
            if url.path().trim_end_matches('/').ends_with("/api/v1") {
                let complaint = Complaint::new("/url", "`/api/v1` is added by certplan");
                complaints.push(complaint.with_help("leave it out"));
            }
        }
        if self.server_id.is_empty() || matches!(self.server_id.as_str(), "." | "..") {
            let complaint = Complaint::new("/server_id", "this is not the identifier of a server");
            complaints.push(complaint.with_help("leave it out: servers call themselves `localhost`"));
        }
        if self.ttl.is_some_and(|ttl| !(1..=86_400).contains(&ttl)) {
            complaints.push(Complaint::new("/ttl", "a time to live is 1 to 86400 seconds"));
        }
        match url {
            Some(url) if complaints.is_empty() => Ok(below(&url, &["api", "v1", "servers", &self.server_id])),
            _ => Err(complaints),
        }
    }
}

/// A URL with more segments, each escaped.
pub(crate) fn below(url: &Url, segments: &[&str]) -> Url {
    let mut url = url.clone();
    // Only a URL without a host has no segments, and `check` refuses it.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_api_lies_below_the_url() {
        let config = |url: &str| PowerDnsConfig {
            url: url.to_owned(),
            api_key: SecretRef::Env("KEY".to_owned()),
            server_id: "local host/x".to_owned(),
            ca_bundle: None,
            ttl: None,
        };
        for (url, expected) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081/api/v1/servers/local%20host%2Fx"),
            ("https://dns.example/pdns/", "https://dns.example/pdns/api/v1/servers/local%20host%2Fx"),
        ] {
            assert_eq!(config(url).check().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_where_they_are() {
        let check = |url: &str, id: &str, ttl: u32| {
            let block = json!({ "url": url, "api_key": { "env": "KEY" }, "server_id": id, "ttl": ttl });
            let complaints = (crate::FACTORY.check)(&block).unwrap_err();
            complaints.into_iter().map(|complaint| complaint.pointer).collect::<Vec<_>>()
        };
        assert_eq!(check("127.0.0.1:8081", "", 0), ["/url", "/server_id", "/ttl"]);
        for url in [
            "ftp://a",
            "http://",
            "http://user:secret@a",
            "http://a?q=1",
            "http://a/#x",
            "http://a/api/v1/",
            "http://169.254.169.254",
            "http://[fe80::1]:8081",
        ] {
            assert_eq!(check(url, "localhost", 60), ["/url"], "{url}");
        }
        let good = json!({ "url": "http://127.0.0.1:8081", "api_key": { "file": "key" } });
        assert_eq!((crate::FACTORY.check)(&good), Ok(()));
        let literal = json!({ "url": "http://127.0.0.1:8081", "api_key": "literal" });
        assert!((crate::FACTORY.check)(&literal).is_err());
    }

    #[test]
    fn the_schema_documents_every_key() {
        let schema = (crate::FACTORY.schema)();
        for key in ["url", "api_key", "server_id", "ca_bundle", "ttl"] {
            assert!(schema.pointer(&format!("/properties/{key}/description")).is_some(), "{key}");
        }
    }
}
