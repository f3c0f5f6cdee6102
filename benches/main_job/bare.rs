//! The loop to compare with: the same ACME client and the same DNS provider, and nothing around them. No journal, no
//! leases, no files, no look at what can be seen in DNS, and nothing left after a crash.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeError;
use certplan::acme::AcmeSettings;
use certplan::acme::CertificateKey;
use certplan::acme::Order;
use certplan::acme::OrderStatus;
use certplan::acme::Session;
use certplan::model::CertName;
use certplan::model::Fqdn;
use certplan::model::KeyType;
use certplan::model::NameSet;
use certplan::registry::BUILTIN;
use certplan_provider::BuildContext;
use certplan_provider::Context;
use certplan_provider::DnsProvider;
use certplan_provider::Secret;
use certplan_provider::SecretRef;
use certplan_provider::SecretResolver;
use certplan_provider::TxtChange;
use certplan_provider::TxtRecord;
use certplan_provider::Unresolved;
use certplan_provider::Zone;
use certplan_test_support::Pebble;
use certplan_test_support::PowerDns;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How long the CA may take for one step.
const PATIENCE: Duration = Duration::from_secs(30);

/// Resolves nothing.
#[derive(Debug)]
pub(crate) struct NoSecrets;

impl SecretResolver for NoSecrets {
    fn resolve(&self, reference: &SecretRef) -> Result<Secret, Unresolved> {
        Err(Unresolved { reference: reference.clone(), reason: "is not set".to_owned() })
    }
}

/// Resolves everything to one secret.
#[derive(Debug)]
struct OneSecret(String);

impl SecretResolver for OneSecret {
    fn resolve(&self, _: &SecretRef) -> Result<Secret, Unresolved> {
        Ok(Secret::new(self.0.clone()))
    }
}

/// An account at a CA that is there already.
#[derive(Debug)]
pub(crate) struct Account {
    settings: AcmeSettings,
    key: AccountKey,
    url: String,
}

impl Account {
    pub(crate) async fn create(pebble: &Pebble) -> Self {
        let mut settings = AcmeSettings::new(pebble.directory_url());
        settings.ca_bundle = Some(pebble.ca_bundle().as_bytes().to_vec());
        let client = AcmeClient::new(settings.clone()).expect("the settings are sound");
        let key = AccountKey::generate().expect("a key can be made");
        let url = client.create_account(&key, &[], None).await.expect("the CA takes accounts");
        Self { settings, key, url }
    }
}

/// The loop, with clients as they are when a program has started.
pub(crate) struct Loop {
    session: Session,
    provider: Arc<dyn DnsProvider>,
    context: Context,
    zone: Zone,
}

/// An order whose value is to be published.
struct Opened {
    order: Order,
    names: NameSet,
    challenge: String,
    authorization: String,
    record: TxtRecord,
}

impl Loop {
    pub(crate) fn new(account: &Account, dns: &PowerDns, zone: &str) -> Self {
        let client = AcmeClient::new(account.settings.clone()).expect("the settings are sound");
        let session = client.session(&account.key, &account.url).expect("the account is the CA's");
        let secrets = Arc::new(OneSecret(dns.api_key().to_owned()));
        let build = BuildContext::new(secrets, PathBuf::from("."), "bench".to_owned());
        let factory = BUILTIN.dns_factory("powerdns").expect("it is built in");
        let block = json!({ "url": dns.api_url(), "api_key": { "env": "PDNS_API_KEY" } });
        let provider = (factory.build)(&block, &build).unwrap_or_else(|_| panic!("the block is sound"));
        let context = Context::new(Timestamp::now(), CancellationToken::new());
        let zone = Zone { id: format!("{zone}."), name: Fqdn::new(zone).expect("it is a name") };
        Self { session, provider, context, zone }
    }

    /// Issues one certificate from the order to the removal of its TXT value.
    pub(crate) async fn issue(&self, name: &str) -> Result<(), AcmeError> {
        let opened = self.open(name).await?;
        let records = vec![opened.record.clone()];
        self.change(records.clone(), Vec::new()).await;
        self.finish(&opened).await?;
        self.change(Vec::new(), records).await;
        Ok(())
    }

    /// Issues many in phases, with one write to DNS for all and one to take it back. With writes of its own for each it takes
    /// a minute for 500: PowerDNS answers 500 when a zone is written twice at once, so that everybody would take turns.
    pub(crate) async fn issue_together(&self, names: &[String], at_once: usize) -> Result<(), AcmeError> {
        let opened: Vec<Opened> =
            stream::iter(names).map(|name| self.open(name)).buffer_unordered(at_once).try_collect().await?;
        let records: Vec<TxtRecord> = opened.iter().map(|opened| opened.record.clone()).collect();
        self.change(records.clone(), Vec::new()).await;
        stream::iter(&opened)
            .map(|opened| self.finish(opened))
            .buffer_unordered(at_once)
            .try_collect::<()>()
            .await?;
        self.change(Vec::new(), records).await;
        Ok(())
    }

    async fn open(&self, name: &str) -> Result<Opened, AcmeError> {
        let names: NameSet = [CertName::new(name).expect("it is a name")].into();
        let order = self.session.new_order(&names, None, None).await?;
        let authorization = self.session.authorization(&order.authorizations[0]).await?;
        let challenge = authorization.dns01.expect("DNS-01 is offered");
        let base = Fqdn::new(name).expect("it is a name");
        let record = TxtRecord {
            name: base.prepend("_acme-challenge").expect("it is short enough"),
            value: self.session.dns01_value(&challenge.token),
        };
        Ok(Opened { order, names, challenge: challenge.url, authorization: authorization.url, record })
    }

    async fn finish(&self, opened: &Opened) -> Result<(), AcmeError> {
        let session = &self.session;
        let key = CertificateKey::generate(KeyType::EcdsaP256).await?;
        let csr = key.csr(&opened.names)?;
        session.answer(&opened.challenge).await?;
        session.wait_for_authorization(&opened.authorization, PATIENCE).await?;
        let order = session.wait_until_ready(&opened.order.url, PATIENCE).await?;
        let mut order = session.finalize(&order, &csr).await?;
        if order.status != OrderStatus::Valid {
            order = session.wait_until_issued(&order.url, PATIENCE).await?;
        }
        assert!(session.chains(&order, None, |_| Ok(())).await?.pem.contains("BEGIN CERTIFICATE"));
        Ok(())
    }

    async fn change(&self, additions: Vec<TxtRecord>, removals: Vec<TxtRecord>) {
        let change = TxtChange { additions, removals, ttl: Duration::from_secs(60) };
        self.provider.change(&self.context, &self.zone, &change).await.expect("the server takes it");
    }
}
