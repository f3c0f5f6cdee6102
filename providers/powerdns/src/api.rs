use certplan_http::HttpClient;
use certplan_http::Request;
use certplan_http::Response;
use certplan_http::RetryClass;
use certplan_provider::Context;
use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::Secret;
use certplan_provider::Zone;
use http::HeaderName;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;

use crate::config::below;
use crate::edit::Edit;
use crate::edit::RrSet;

/// The API of one server.
#[derive(Debug)]
pub(crate) struct Api {
    client: HttpClient,
    /// Its own URL: `http://127.0.0.1:8081/api/v1/servers/localhost`.
    url: Url,
    key: Secret,
    version: OnceCell<Option<Version>>,
}

/// A release of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// Reads `5.0.2` or `4.9.12-1pdns`; what is built between releases calls itself otherwise.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..end)?.parse().ok()
        };
        Some(Self(number()?, number()?, number()?))
    }

    /// Whether the server knows `EXTEND` and `PRUNE`
    /// ([since 4.9.12 and 5.0.2](https://doc.powerdns.com/authoritative/http-api/zone.html)).
    fn is_granular(self) -> bool {
        (self >= Self(4, 9, 12) && self < Self(5, 0, 0)) || self >= Self(5, 0, 2)
    }
}

#[derive(Deserialize)]
struct ApiZone {
    id: String,
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    rrsets: Vec<RrSet>,
}

impl ApiZone {
    /// Whether the zone's content is the server's own, and not a copy of a primary's.
    fn is_writable(&self) -> bool {
        ["native", "master", "primary", "producer"].iter().any(|kind| self.kind.eq_ignore_ascii_case(kind))
    }

    /// The zone, if it can be written and its name is one that a certificate can have.
    fn writable(self) -> Option<Zone> {
        let name = Fqdn::new(&self.name).ok().filter(|_| self.is_writable())?;
        Some(Zone { id: self.id, name })
    }
}

impl Api {
    pub(crate) const fn new(client: HttpClient, url: Url, key: Secret) -> Self {
        Self { client, url, key, version: OnceCell::const_new() }
    }

    /// Whether the server adds and removes single records.
    pub(crate) async fn is_granular(&self, context: &Context) -> Result<bool, ProviderError> {
        #[derive(Deserialize)]
        struct Server {
            #[serde(default)]
            version: String,
        }
        let version = || async {
            let response = self.get(context, self.url.clone(), "asking for the server's version").await?;
            let server: Server = response.json()?;
            Ok(Version::parse(&server.version))
        };
        let version: Result<_, ProviderError> = self.version.get_or_try_init(version).await.copied();
        Ok(version?.is_some_and(Version::is_granular))
    }

    /// The zone with exactly this name, when the server has it as a primary.
    pub(crate) async fn zone(&self, context: &Context, name: &Fqdn) -> Result<Option<Zone>, ProviderError> {
        let mut url = below(&self.url, &["zones"]);
        url.query_pairs_mut().append_pair("zone", &format!("{name}."));
        let response = self.get(context, url, "looking for a zone").await?;
        let zones: Vec<ApiZone> = response.json()?;
        // An old server ignores the question and lists all of them.
        Ok(zones.into_iter().filter_map(ApiZone::writable).find(|zone| zone.name == *name))
    }

    /// Every zone that the server has as a primary.
    pub(crate) async fn zones(&self, context: &Context) -> Result<Vec<Zone>, ProviderError> {
        let mut url = below(&self.url, &["zones"]);
        // Whether each is signed takes the server several queries of its database.
        url.query_pairs_mut().append_pair("dnssec", "false");
        let zones: Vec<ApiZone> = self.get(context, url, "listing the zones").await?.json()?;
        Ok(zones.into_iter().filter_map(ApiZone::writable).collect())
    }

    /// The RRsets of a zone, disabled records too.
    pub(crate) async fn rrsets(&self, context: &Context, zone: &Zone) -> Result<Vec<RrSet>, ProviderError> {
        self.read(context, zone, below(&self.url, &["zones", &zone.id])).await
    }

    /// The TXT RRset at a name, without its disabled records; an old server gives the whole zone.
    pub(crate) async fn rrset(
        &self,
        context: &Context,
        zone: &Zone,
        name: &Fqdn,
    ) -> Result<Vec<RrSet>, ProviderError> {
        let mut url = below(&self.url, &["zones", &zone.id]);
        url.query_pairs_mut().append_pair("rrset_name", &format!("{name}.")).append_pair("rrset_type", "TXT");
        self.read(context, zone, url).await
    }

    async fn read(&self, context: &Context, zone: &Zone, url: Url) -> Result<Vec<RrSet>, ProviderError> {
        let response = self.send(context, Request::get(url), RetryClass::Idempotent).await?;
        // Before 4.2 a missing zone is unprocessable.
        if matches!(response.status.as_u16(), 404 | 422) {
            return Err(missing(zone));
        }
        let read: ApiZone = response.check(&format!("reading the zone `{}`", zone.name))?.json()?;
        if !Fqdn::new(&read.name).is_ok_and(|name| name == zone.name) {
            return Err(missing(zone));
        }
        Ok(read.rrsets)
    }

    /// Writes RRsets in one transaction.
    pub(crate) async fn patch(
        &self,
        context: &Context,
        zone: &Zone,
        edits: &[Edit],
    ) -> Result<(), ProviderError> {
        let url = below(&self.url, &["zones", &zone.id]);
        let request = Request::new(Method::PATCH, url).json(&json!({ "rrsets": edits }))?;
        // Sent again after a lost answer, it might undo what somebody has written in between.
        let response = self.send(context, request, RetryClass::Unsafe).await?;
        if response.status.as_u16() == 404 {
            return Err(missing(zone));
        }
        response.check(&format!("changing the zone `{}`", zone.name))?;
        Ok(())
    }

    async fn get(&self, context: &Context, url: Url, what: &str) -> Result<Response, ProviderError> {
        let response = self.send(context, Request::get(url), RetryClass::Idempotent).await?;
        if response.status.as_u16() == 404 {
            return Err(ProviderError::invalid(format!(
                "there is no PowerDNS API at `{}`: `url` is the web server of the Authoritative Server, which needs \
                 `api=yes`, and `server_id` is `localhost` unless a proxy says otherwise",
                self.url
            )));
        }
        response.check(what)
    }

    async fn send(
        &self,
        context: &Context,
        request: Request,
        class: RetryClass,
    ) -> Result<Response, ProviderError> {
        const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
        if context.remaining().is_some_and(|left| left.is_zero()) {
            return Err(ProviderError::transient("the deadline has passed"));
        }
        let request = request.secret_header(API_KEY, &self.key)?;
        let response = self.client.send(context, &request, class).await?;
        match response.status.as_u16() {
            401 => Err(ProviderError::auth(format!(
                "the PowerDNS server at `{}` does not accept the API key: it must be its `api-key`",
                self.url
            ))),
            403 => Err(ProviderError::auth(format!(
                "the PowerDNS server at `{}` forbids the request: {}",
                self.url,
                response.excerpt()
            ))),
            _ => Ok(response),
        }
    }
}

fn missing(zone: &Zone) -> ProviderError {
    ProviderError::not_found(format!("the PowerDNS server has no zone `{}`", zone.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_say_what_the_server_can() {
        let can = |text: &str| Version::parse(text).is_some_and(Version::is_granular);
        for text in ["4.9.12", "4.9.13-1pdns.bookworm", "5.0.2", "5.1.0-alpha1", "6.0.0"] {
            assert!(can(text), "{text}");
        }
        for text in
            ["4.7.3", "4.9.11", "5.0.0", "5.0.1", "4.8.20", "0.0.1234.0.gabcdef", "", "5", "5.1", "x.y.z"]
        {
            assert!(!can(text), "{text}");
        }
    }
}
