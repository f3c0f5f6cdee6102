use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::ChangeRef;
use certplan_provider::ChangeStatus;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DnsLimits;
use certplan_provider::DnsProvider;
use certplan_provider::Fqdn;
use certplan_provider::ProviderError;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::TxtChange;
use certplan_provider::Zone;
use hickory_proto::op::Message;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;
use tokio::sync::OnceCell;

use crate::config::Algorithm;
use crate::config::Rfc2136Config;
use crate::connection::Connections;
use crate::connection::Kind;
use crate::message;
use crate::tsig::Key;
use crate::tsig::Response;

/// The zones of one server.
#[derive(Debug)]
pub struct Rfc2136 {
    connections: Connections,
    key_name: Name,
    algorithm: Algorithm,
    secret: SecretRef,
    secrets: Arc<dyn SecretResolver>,
    key: OnceCell<Key>,
    ttl: Option<Duration>,
}

impl Rfc2136 {
    /// A provider for a block of the configuration. Touches neither the network nor the secret.
    pub fn new(config: &Rfc2136Config, secrets: Arc<dyn SecretResolver>) -> Result<Self, Vec<Complaint>> {
        let settings = config.check()?;
        Ok(Self {
            connections: Connections::new(settings.server),
            key_name: settings.key_name,
            algorithm: config.tsig.algorithm,
            secret: config.tsig.secret.clone(),
            secrets,
            key: OnceCell::new(),
            ttl: config.ttl.map(|seconds| Duration::from_secs(seconds.into())),
        })
    }

    async fn key(&self) -> Result<&Key, ProviderError> {
        let key = || async {
            let secret = self.secrets.resolve(&self.secret).map_err(|error| {
                ProviderError::auth(format!("the secret of the TSIG key `{}` is missing", self.key_name))
                    .with_source(error)
            })?;
            Key::new(self.key_name.clone(), self.algorithm, &secret)
        };
        self.key.get_or_try_init(key).await
    }

    /// Signs a request, sends it and returns the response with what its signature is worth.
    async fn exchange(&self, context: &Context, mut request: Message) -> Result<Response, ProviderError> {
        let key = self.key().await?;
        let mut verifier = key.sign(&mut request)?;
        let octets = message::encode(&request)?;
        let kind = if request.op_code == OpCode::Update { Kind::Update } else { Kind::Question };
        let (answer, stream) = self.connections.exchange(context, &octets, kind).await?;
        // A connection that gave something else than an answer is not used again.
        let response = key.open(&request, &mut verifier, &answer)?;
        self.connections.keep(stream);
        tracing::debug!(
            server = %self.connections.server(),
            operation = %request.op_code,
            octets = octets.len(),
            response = %response.message.response_code,
            "a DNS exchange"
        );
        Ok(response)
    }

    /// Asks a question. `None` means that the server has no authority over the name.
    async fn ask(
        &self,
        context: &Context,
        name: &Name,
        kind: RecordType,
    ) -> Result<Option<Message>, ProviderError> {
        let response = self.exchange(context, message::question(name, kind)).await?.message;
        match response.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(response.authoritative.then_some(response)),
            // Knot and BIND say so of zones that they do not have; it needs no signature, for nothing follows from it.
            ResponseCode::Refused => Ok(None),
            // A question is refused so for its signature only: PowerDNS says no more than that.
            ResponseCode::NotAuth => Err(ProviderError::auth(format!(
                "the DNS server `{}` does not accept the TSIG key `{}`: name, algorithm and secret must be as in its \
                 configuration",
                self.connections.server(),
                self.key_name
            ))),
            code => Err(ProviderError::transient(format!(
                "the DNS server `{}` cannot answer for `{}`: {code}",
                self.connections.server(),
                name.to_ascii()
            ))),
        }
    }

    /// The longest zone of the server that contains a name.
    async fn zone_of(&self, context: &Context, name: &Fqdn) -> Result<Option<Fqdn>, ProviderError> {
        let mut name = name.clone();
        loop {
            let Some(response) = self.ask(context, &message::wire_name(&name)?, RecordType::SOA).await?
            else {
                return Ok(None);
            };
            // Without an SOA record it is an alias, which says nothing about the zone that it is in.
            match message::apex(&response).filter(|apex| name.is_within(apex)) {
                Some(apex) => return Ok(Some(apex)),
                None => match name.parent() {
                    Some(parent) => name = parent,
                    None => return Ok(None),
                },
            }
        }
    }

    /// Says what a refused update means.
    async fn refused(&self, context: &Context, zone: &Zone, response: &Response) -> ProviderError {
        let (server, key) = (self.connections.server(), &self.key_name);
        let missing = || {
            ProviderError::not_found(format!(
                "the DNS server `{server}` is not the primary of a zone `{}`",
                zone.name
            ))
        };
        let forbidden = |code: ResponseCode| {
            ProviderError::auth(format!(
                "the DNS server `{server}` does not let the TSIG key `{key}` change TXT records in the zone `{}` ({code}): \
                 allow it there, in BIND with `update-policy {{ grant {key} zonesub TXT; }};`",
                zone.name
            ))
        };
        match response.message.response_code {
            // To RFC 2136 it means that the server has no such zone, to RFC 8945 that the signature is wrong. Without a
            // signature it may be either, and the answer to a question tells them apart.
            code @ (ResponseCode::NotAuth | ResponseCode::Refused) => {
                match self.zone_of(context, &zone.name).await {
                    Ok(Some(apex)) if apex == zone.name => forbidden(code),
                    Ok(_) => missing(),
                    Err(error) => error,
                }
            }
            ResponseCode::NotZone => ProviderError::invalid(format!(
                "the DNS server `{server}` says that a name lies outside the zone `{}` (NOTZONE): is there a zone below it?",
                zone.name
            )),
            ResponseCode::NotImp => ProviderError::invalid(format!(
                "the DNS server `{server}` takes no dynamic updates (NOTIMP): enable them, or use its own API"
            )),
            ResponseCode::FormErr => ProviderError::invalid(format!(
                "the DNS server `{server}` does not understand an update of the zone `{}` (FORMERR)",
                zone.name
            )),
            ResponseCode::ServFail => ProviderError::transient(format!(
                "the DNS server `{server}` failed to update the zone `{}` (SERVFAIL): its log says why; often it cannot \
                 write the zone's file or journal, or has not loaded the zone",
                zone.name
            )),
            code => ProviderError::transient(format!(
                "the DNS server `{server}` refused to update the zone `{}`: {code}",
                zone.name
            )),
        }
    }
}

#[async_trait]
impl DnsProvider for Rfc2136 {
    /// A change is atomic when it fits into one message, which is so unless names and values are long; hence not always.
    fn limits(&self) -> DnsLimits {
        DnsLimits {
            values_per_change: 500,
            calls_per_second: None,
            minimum_ttl: Duration::from_secs(1),
            atomic: false,
            compare_and_swap: true,
        }
    }

    async fn zones_for(&self, context: &Context, name: &Fqdn) -> Result<Vec<Zone>, ProviderError> {
        let mut zones = Vec::new();
        let mut next = Some(name.clone());
        while let Some(name) = next {
            context.check()?;
            let Some(apex) = self.zone_of(context, &name).await? else { break };
            next = apex.parent();
            zones.push(Zone { id: apex.to_string(), name: apex });
        }
        Ok(zones)
    }

    async fn txt(&self, context: &Context, zone: &Zone, name: &Fqdn) -> Result<Vec<String>, ProviderError> {
        context.check()?;
        let wire = message::wire_name(name)?;
        let response = self.ask(context, &wire, RecordType::TXT).await?;
        let found = response.filter(|response| message::apex(response).is_none_or(|apex| apex == zone.name));
        let response = found.ok_or_else(|| {
            ProviderError::not_found(format!(
                "the DNS server `{}` has no zone `{}` that contains `{name}`",
                self.connections.server(),
                zone.name
            ))
        })?;
        Ok(message::txt_values(&response, &wire))
    }

    /// A server ignores an addition at a name that is an alias (RFC 2136, section 3.4.2.2) and acknowledges it; that the
    /// value is not there, a look at the authoritative servers shows.
    async fn change(
        &self,
        context: &Context,
        zone: &Zone,
        change: &TxtChange,
    ) -> Result<ChangeRef, ProviderError> {
        let ttl = self.ttl.unwrap_or(change.ttl).max(self.limits().minimum_ttl);
        context.check()?;
        for update in message::updates(&zone.name, change, ttl)? {
            context.check()?;
            let response = self.exchange(context, update).await?;
            if response.message.response_code != ResponseCode::NoError || !response.signed {
                return Err(self.refused(context, zone, &response).await);
            }
        }
        Ok(ChangeRef(zone.name.to_string()))
    }

    /// The primary has applied what it acknowledged; how far its secondaries are, only they can tell.
    async fn status(
        &self,
        _context: &Context,
        _zone: &Zone,
        _change: &ChangeRef,
    ) -> Result<ChangeStatus, ProviderError> {
        Ok(ChangeStatus::Confirmed)
    }
}
