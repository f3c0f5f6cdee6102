use std::sync::Arc;
use std::time::Duration;

use certplan::acme::AccountKey;
use certplan::acme::AcmeClient;
use certplan::acme::AcmeError;
use certplan::acme::AcmeSettings;
use certplan::acme::AuthorizationStatus;
use certplan::acme::CertificateKey;
use certplan::acme::Chain;
use certplan::acme::CheckedChain;
use certplan::acme::Order;
use certplan::acme::OrderStatus;
use certplan::acme::Session;
use certplan::acme::check_chain;
use certplan::model::CertName;
use certplan::model::KeyType;
use certplan::model::NameSet;
use certplan_http::ProxySource;
use certplan_test_support::Challenges;
use certplan_test_support::Pebble;
use jiff::Timestamp;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn names(names: &[&str]) -> NameSet {
    names.iter().map(|name| CertName::new(name).unwrap()).collect()
}

pub(crate) fn settings(pebble: &Pebble) -> AcmeSettings {
    let mut settings = AcmeSettings::new(pebble.directory_url());
    settings.ca_bundle = Some(pebble.ca_bundle().as_bytes().to_vec());
    settings.proxy = ProxySource::None;
    settings
}

pub(crate) fn client(pebble: &Pebble) -> Arc<AcmeClient> {
    AcmeClient::new(settings(pebble)).unwrap()
}

/// A client with a new account.
pub(crate) async fn session(pebble: &Pebble) -> Session {
    let client = client(pebble);
    let key = AccountKey::generate().unwrap();
    let url = client.create_account(&key, &[], None).await.unwrap();
    client.session(&key, &url).unwrap()
}

/// Publishes a value for every pending authorization and tells the CA to look.
pub(crate) async fn answer(
    session: &Session,
    order: &Order,
    challenges: &Challenges,
) -> Result<(), AcmeError> {
    let mut answers = Vec::new();
    for url in &order.authorizations {
        let authorization = session.authorization(url).await?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.dns01.expect("Pebble offers DNS-01");
        let name = authorization.name.challenge_name().unwrap();
        challenges.add_txt(name.as_str(), &session.dns01_value(&challenge.token)).await;
        answers.push(challenge.url);
    }
    for url in answers {
        session.answer(&url).await?;
    }
    Ok(())
}

/// What an issuance leaves behind.
pub(crate) struct Issued {
    pub(crate) order: Order,
    pub(crate) chain: Chain,
    pub(crate) checked: CheckedChain,
}

/// Takes an order from wherever it is to its certificate.
pub(crate) async fn complete(
    session: &Session,
    order: Order,
    challenges: &Challenges,
    key: &CertificateKey,
) -> Result<Issued, AcmeError> {
    let mut order = order;
    if order.status == OrderStatus::Pending {
        answer(session, &order, challenges).await?;
        order = session.wait_until_ready(&order.url, PATIENCE).await?;
    }
    if order.status == OrderStatus::Ready {
        order = session.finalize(&order, &key.csr(&order.names)?).await?;
    }
    if order.status != OrderStatus::Valid {
        order = session.wait_until_issued(&order.url, PATIENCE).await?;
    }
    assert_eq!(order.status, OrderStatus::Valid, "{order:?}");
    let chain = session.chains(&order, None, |_| Ok(())).await?;
    let checked = check_chain(&chain.pem, key.spki(), &order.names, &session.time(Timestamp::now())).unwrap();
    Ok(Issued { order, chain, checked })
}

/// A whole issuance.
pub(crate) async fn issue(session: &Session, challenges: &Challenges, wanted: &NameSet) -> Issued {
    let key = CertificateKey::generate(KeyType::EcdsaP256).await.unwrap();
    let order = session.new_order(wanted, None, None).await.unwrap();
    complete(session, order, challenges, &key).await.unwrap()
}
