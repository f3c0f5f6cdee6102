//! From a persisted intent to a persisted certificate: order, challenges, finalize, chain.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certplan_provider::TxtRecord;
use certplan_provider::Zone;
use futures::future::join_all;
use futures::future::try_join_all;

use crate::acme;
use crate::acme::AcmeError;
use crate::acme::Authorization;
use crate::acme::AuthorizationStatus;
use crate::acme::Order;
use crate::acme::OrderStatus;
use crate::acme::Session;
use crate::dns01;
use crate::dns01::WriteError;
use crate::model::Address;
use crate::model::DesiredCertificate;
use crate::model::Fingerprint;
use crate::model::Issuance;
use crate::model::Issued;
use crate::model::JournaledTxt;
use crate::model::Name;
use crate::model::OperationKey;
use crate::model::Rotation;
use crate::model::SealedKey;
use crate::model::Stage;
use crate::model::TxtState;
use crate::plan::IssueStep;
use crate::state::Revise;

use super::Apply;
use super::certificate::Locations;
use super::certificate::bases;
use super::error::ApplyError;
use super::event::Event;
use super::event::Step;
use super::journal::Journal;

/// How long issuances are remembered for the CA's rate limits: the longest window that a public CA counts in.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(8 * 24);

/// How long the CA may take to decide on the other names when it has refused one, so that all failures are told at once.
const DECIDING: Duration = Duration::from_secs(5);

/// A key that is made for an operation.
pub(super) struct NewKey {
    /// The key, sealed for the certificate's object.
    pub(super) sealed: SealedKey,
    /// The signing request in base64url.
    pub(super) csr: String,
    /// The key, sealed for those who renew, where custody is hardened.
    pub(super) handoff: Option<Vec<u8>>,
}

impl Apply {
    /// Makes the operation's key and signs the request. Nothing is persisted yet.
    pub(super) async fn new_key(
        &self,
        issue: &IssueStep,
        operation: &str,
        journal: &Journal,
    ) -> Result<NewKey, ApplyError> {
        let key = match (issue.reuse_key, &journal.record().current) {
            (true, Some(current)) if issue.key.rotation == Rotation::Never => {
                let opened = self.open_key(journal.name(), journal.record(), &current.key, None).await?;
                match opened {
                    Some(pkcs8) => acme::CertificateKey::from_pkcs8(&pkcs8)?,
                    None => acme::CertificateKey::generate(issue.key.key_type).await?,
                }
            }
            _ => acme::CertificateKey::generate(issue.key.key_type).await?,
        };
        let csr = key.csr(&issue.names)?;
        let sealer = self.sealer()?;
        let place = self.place(Address::Certificate(journal.name().clone()))?;
        let pkcs8 = key.to_pkcs8();
        let sealed = sealer.seal_certificate_key(&place, key.key_type(), key.spki(), &pkcs8)?;
        let handoff = if sealer.hardened() {
            Some(sealer.seal_handoff(&place, operation, key.spki(), &pkcs8)?)
        } else {
            None
        };
        self.keys.keep(key.spki(), pkcs8);
        Ok(NewKey { sealed, csr: URL_SAFE_NO_PAD.encode(csr), handoff })
    }

    /// Brings the open operation from where it is to [`Stage::Issued`].
    pub(super) async fn issue(
        &self,
        desired: &DesiredCertificate,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let issuer = journal.operation()?.issuer.clone();
        let session = self.session(&issuer).await?;
        let owner = self.owner_of(journal.operation()?, &session).await?;
        let is_former = owner.as_ref().is_some_and(|owner| owner.account_url() != session.account_url());
        let known = match self.known_order(owner.as_ref(), is_former, journal).await {
            Err(ApplyError::OrderLost { finalizing: true }) => {
                return Box::pin(self.reissue_lost(desired, journal)).await;
            }
            other => other?,
        };
        let session = owner.filter(|_| known.is_some()).unwrap_or(session);
        let order = match known {
            // It needs no challenge any more: it is finished though DNS may not answer.
            Some(order) if order.status != OrderStatus::Pending => order,
            known => self.prove(&session, known, desired, journal).await?,
        };
        let order = self.finalize(&session, order, journal).await?;
        self.persist_certificate(&session, &order, journal).await
    }

    /// Has the names of an order validated, which is made first where there is none yet.
    async fn prove(
        &self,
        session: &Session,
        known: Option<Order>,
        desired: &DesiredCertificate,
        journal: &mut Journal,
    ) -> Result<Order, ApplyError> {
        let locations = self.locate(desired, journal).await?;
        let mut expectations = self.announce(&locations);
        let order = match known {
            Some(order) => order,
            None => self.new_order(session, journal).await?,
        };
        if order.status != OrderStatus::Pending {
            return Ok(order);
        }
        let validated = self.validate(session, &order, &locations, &mut expectations, journal).await;
        if validated.is_err() {
            self.release_zones(journal);
        }
        validated
    }

    /// Finds where the challenges go; a name that the configuration cannot write fails before an order exists.
    async fn locate(&self, desired: &DesiredCertificate, journal: &Journal) -> Result<Locations, ApplyError> {
        let names = &journal.operation()?.names;
        let names = if names.is_empty() { &desired.names } else { names };
        let found = bases(names).into_iter().map(|base| async move {
            let challenge = base
                .prepend("_acme-challenge")
                .map_err(|source| ApplyError::ChallengeName { name: base.to_string(), source })?;
            let located =
                dns01::locate(&self.context, &self.providers, self.lookup.as_ref(), &challenge).await?;
            Ok::<_, ApplyError>((base.clone(), located.location))
        });
        Ok(try_join_all(found).await?.into_iter().collect())
    }

    /// Tells the zones' writers what is to come, so that they gather it into few changes.
    fn announce(&self, locations: &Locations) -> BTreeMap<(Name, String), dns01::Expectation> {
        let zones: BTreeSet<_> =
            locations.values().map(|location| (&location.provider, &location.zone)).collect();
        zones
            .into_iter()
            .map(|(provider, zone)| {
                ((provider.clone(), zone.id.clone()), self.writers.expect(provider, zone))
            })
            .collect()
    }

    /// Returns the order that the operation's journal names, as long as something can come of it.
    async fn known_order(
        &self,
        owner: Option<&Session>,
        is_former: bool,
        journal: &mut Journal,
    ) -> Result<Option<Order>, ApplyError> {
        let operation = journal.operation()?;
        let finalizing = operation.stage >= Stage::Finalizing;
        let Some(url) = operation.order_url.clone() else { return Ok(None) };
        let found = match owner {
            Some(session) => match session.order(&url).await {
                // Taken over, and deactivated: nobody sees its orders any more.
                Err(AcmeError::Problem(problem)) if problem.kind == "unauthorized" && is_former => {
                    Err(AcmeError::NotFound { request: format!("`POST {url}`") })
                }
                other => other,
            },
            None => Err(AcmeError::NotFound { request: format!("`POST {url}`") }),
        };
        match found {
            Ok(order) if order.status != OrderStatus::Invalid => Ok(Some(order)),
            Ok(_) | Err(AcmeError::NotFound { .. }) if finalizing => {
                Err(ApplyError::OrderLost { finalizing })
            }
            Ok(_) | Err(AcmeError::NotFound { .. }) => {
                // It expired while nobody ran. Its TXT values go, and the operation goes on with a new order.
                self.remove_txt(journal).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a new order, and persists its URL.
    async fn new_order(&self, session: &Session, journal: &mut Journal) -> Result<Order, ApplyError> {
        journal.check_lease()?;
        let operation = journal.operation()?;
        let profile = operation.profile.as_deref();
        let order = match session.new_order(&operation.names, profile, operation.replaces.as_deref()).await {
            // The predecessor counts as replaced, by an order whose URL a killed run took with it, or the CA stumbles over
            // it, as when it has lost its order: once more without, for `replaces` is a favour and no need.
            Err(AcmeError::AlreadyReplaced { .. } | AcmeError::Unavailable { retry_after: None, .. })
                if operation.replaces.is_some() =>
            {
                let order = session.new_order(&operation.names, profile, None).await?;
                journal.operation_mut()?.replaces = None;
                order
            }
            other => other?,
        };
        let operation = journal.operation_mut()?;
        operation.account = Some(session.account_url().to_owned());
        operation.order_url = Some(order.url.clone());
        operation.order_expires = order.expires;
        operation.stage = Stage::Ordered;
        journal.persist(Revise::Keep).await?;
        self.step(Address::Certificate(journal.name().clone()), Step::OrderCreated);
        Ok(order)
    }

    /// Writes the TXT values, waits until they can be seen, and answers the challenges.
    async fn validate(
        &self,
        session: &Session,
        order: &Order,
        locations: &Locations,
        expectations: &mut BTreeMap<(Name, String), dns01::Expectation>,
        journal: &mut Journal,
    ) -> Result<Order, ApplyError> {
        let address = Address::Certificate(journal.name().clone());
        let authorizations =
            try_join_all(order.authorizations.iter().map(|url| session.authorization(url))).await?;
        let mut values = Vec::new();
        let mut challenges = Vec::new();
        for authorization in &authorizations {
            match authorization.status {
                // Still valid from an earlier order: no challenge is due.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                _ => return Err(ApplyError::validation([authorization])),
            }
            let challenge =
                authorization.dns01.as_ref().ok_or_else(|| ApplyError::no_dns_challenge(authorization))?;
            let location = locations
                .get(authorization.name.base())
                .ok_or_else(|| ApplyError::ForeignAuthorization { name: authorization.name.to_string() })?;
            let name =
                location.effective().cloned().ok_or_else(|| ApplyError::no_dns_challenge(authorization))?;
            values.push(JournaledTxt {
                provider: location.provider.clone(),
                zone: location.zone.clone(),
                name,
                value: session.dns01_value(&challenge.token),
                state: TxtState::Intent,
            });
            challenges.push(challenge.url.clone());
        }
        let operation = journal.operation_mut()?;
        operation.delegations = locations
            .values()
            .filter(|location| location.chain.len() > 1)
            .filter_map(|location| location.effective().cloned())
            .collect();
        for value in &values {
            if !operation.txt.iter().any(|known| known.name == value.name && known.value == value.value) {
                operation.txt.push(value.clone());
            }
        }
        operation.stage = Stage::Validating;
        journal.persist(Revise::Keep).await?;
        self.in_use.take(&journal.operation()?.id, &values);
        self.step(address.clone(), Step::TxtIntended);

        journal.check_lease()?;
        let mut by_zone: BTreeMap<(Name, String), (Zone, Vec<TxtRecord>)> = BTreeMap::new();
        for value in &values {
            by_zone
                .entry((value.provider.clone(), value.zone.id.clone()))
                .or_insert_with(|| (value.zone.clone(), Vec::new()))
                .1
                .push(TxtRecord { name: value.name.clone(), value: value.value.clone() });
        }
        // Zones that need no value after all are told so at once: others may be waiting for this certificate's.
        expectations.retain(|zone, _| by_zone.contains_key(zone));
        let writes = by_zone.iter().map(|(place, (zone, records))| {
            let expectation =
                expectations.remove(place).unwrap_or_else(|| self.writers.expect(&place.0, zone));
            async move { Ok::<_, WriteError>((place, self.writers.add(expectation, records.clone()).await?)) }
        });
        let changes: BTreeMap<_, _> = try_join_all(writes).await?.into_iter().collect();
        for value in &mut journal.operation_mut()?.txt {
            // Two providers may know their zones by one id.
            if let Some(change) = changes.get(&(value.provider.clone(), value.zone.id.clone())) {
                value.state = TxtState::Added(change.0.clone());
            }
        }
        self.step(address.clone(), Step::TxtPresented);
        let visible = by_zone.iter().map(|((provider, _), (zone, records))| {
            self.propagation.wait_visible(&self.context, provider, zone, records)
        });
        for message in try_join_all(visible).await?.into_iter().flatten() {
            self.reporter.report(Event::Warning { address: address.clone(), message: message.to_string() });
        }
        self.step(address.clone(), Step::Propagated);
        journal.check_lease()?;
        for answered in join_all(challenges.iter().map(|url| session.answer(url))).await {
            answered?;
        }
        // The order knows of all its names, so that it is asked and not each of them; they tell why it failed.
        let settled = session.wait_until_ready(&order.url, self.options.ca_patience).await;
        let patience = match &settled {
            Ok(order)
                if matches!(
                    order.status,
                    OrderStatus::Invalid | OrderStatus::Pending | OrderStatus::Unknown(_)
                ) =>
            {
                Some(DECIDING.min(self.options.ca_patience))
            }
            Err(AcmeError::Timeout { .. }) => Some(Duration::ZERO),
            _ => None,
        };
        if let Some(patience) = patience {
            let refused = refused(session, &authorizations, patience).await;
            if !refused.is_empty() {
                return Err(ApplyError::validation(&refused));
            }
        }
        let order = settled?;
        if matches!(order.status, OrderStatus::Pending | OrderStatus::Unknown(_)) {
            return Err(ApplyError::OrderPending { url: order.url });
        }
        self.step(address, Step::Validated);
        Ok(order)
    }

    /// Finalizes the order with the persisted request, and waits for the certificate.
    async fn finalize(
        &self,
        session: &Session,
        order: Order,
        journal: &mut Journal,
    ) -> Result<Order, ApplyError> {
        let mut order = order;
        if order.status == OrderStatus::Ready {
            let csr = journal.operation()?.csr.clone().ok_or(ApplyError::JournalClosed)?;
            let csr = URL_SAFE_NO_PAD
                .decode(csr)
                .map_err(|_| ApplyError::JournalCorrupt { what: "the signing request" })?;
            if journal.operation()?.stage < Stage::Finalizing {
                journal.operation_mut()?.stage = Stage::Finalizing;
                journal.persist(Revise::Keep).await?;
                self.step(Address::Certificate(journal.name().clone()), Step::Finalizing);
            }
            journal.check_lease()?;
            order = match session.finalize(&order, &csr).await {
                Ok(order) => order,
                // The answer was lost or the CA was behind: the order itself tells.
                Err(error) if error.outcome_is_unknown() => session.order(&order.url).await?,
                Err(error) => return Err(error.into()),
            };
            if order.status == OrderStatus::Ready {
                order = session.finalize(&order, &csr).await?;
            }
        }
        if !matches!(order.status, OrderStatus::Valid | OrderStatus::Invalid) {
            order = session.wait_until_issued(&order.url, self.options.ca_patience).await?;
        }
        match order.status {
            OrderStatus::Valid => Ok(order),
            OrderStatus::Invalid => Err(ApplyError::OrderInvalid {
                message: order.error.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
            _ => Err(ApplyError::OrderPending { url: order.url }),
        }
    }

    /// Checks the chain and makes the certificate the current one, the old one the previous.
    async fn persist_certificate(
        &self,
        session: &Session,
        order: &Order,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let operation = journal.operation()?.clone();
        let Some(OperationKey::Sealed(key)) = operation.key.clone() else {
            return Err(ApplyError::JournalClosed);
        };
        let now = self.now();
        let time = session.time(now);
        let check = |pem: &str| acme::check_chain(pem, key.spki, &operation.names, &time);
        let chain =
            session.chains(order, operation.preferred_chain.as_deref(), |pem| check(pem).map(|_| ())).await?;
        let checked = check(&chain.pem)?;
        for message in chain.warnings {
            self.reporter
                .report(Event::Warning { address: Address::Certificate(journal.name().clone()), message });
        }
        let spki: Fingerprint = key.spki;
        let issued = Issued {
            facts: checked.facts,
            chain_pem: checked.pem,
            key,
            issuer: operation.issuer.clone(),
            directory: operation.directory.clone(),
            profile: operation.profile.clone(),
            preferred_chain: operation.preferred_chain.clone(),
            issued_at: now,
            operation: operation.id.clone(),
        };
        let former = self.out_of_reach(journal).await;
        let record = journal.record_mut();
        record.previous = record.current.replace(issued).map(Box::new);
        if let (Some(previous), Some(key)) = (&mut record.previous, former) {
            previous.key = key;
        }
        record.ari = None;
        record.failures = None;
        record.issuances.retain(|issuance| now.duration_since(issuance.at) < REMEMBERED);
        record.issuances.push(Issuance {
            at: now,
            directory: operation.directory,
            names: operation.names,
            spki,
            replaces: operation.replaces.is_some(),
        });
        journal.operation_mut()?.stage = Stage::Issued;
        journal.persist(Revise::Bump).await?;
        self.step(Address::Certificate(journal.name().clone()), Step::Issued);
        Ok(())
    }

    /// The key of the certificate that is replaced, sealed to `keys:` where it is from before those were set: no identity that
    /// only applies can open any key after a renewal. `None` where it may stay as it is.
    async fn out_of_reach(&self, journal: &Journal) -> Option<SealedKey> {
        let sealer = self.sealer.as_deref().filter(|sealer| sealer.hardened())?;
        let former = &journal.record().current.as_ref()?.key;
        if sealer.is_sealed_to_keys(former) || !sealer.can_open(former) {
            return None;
        }
        let place = self.place(Address::Certificate(journal.name().clone())).ok()?;
        let opened = self.open_key(journal.name(), journal.record(), former, None).await.ok()??;
        sealer.seal_certificate_key(&place, former.key_type, former.spki, &opened).ok()
    }

    /// A certificate may exist whose order can no longer be asked: it is counted, and another follows.
    async fn reissue_lost(
        &self,
        desired: &DesiredCertificate,
        journal: &mut Journal,
    ) -> Result<(), ApplyError> {
        let operation = journal.operation()?.clone();
        self.reporter.report(Event::Warning {
            address: Address::Certificate(journal.name().clone()),
            message: "the interrupted order is gone at the CA; its certificate may exist, and is counted"
                .to_owned(),
        });
        let issue = IssueStep::from_operation(&operation, desired);
        // Before it is counted: what fails in here is tried again.
        self.remove_txt(journal).await?;
        if let Some(OperationKey::Sealed(key)) = &operation.key {
            let now = self.now();
            journal.record_mut().issuances.push(Issuance {
                at: now,
                directory: operation.directory.clone(),
                names: operation.names.clone(),
                spki: key.spki,
                replaces: operation.replaces.is_some(),
            });
        }
        self.abandon(journal).await?;
        self.open_operation(&issue, &operation.cause, "reissue_because_order_lost", journal).await?;
        self.issue(desired, journal).await
    }
}

/// The authorizations of the order that the CA has refused. Those that it does not decide on in time are not among them.
async fn refused(
    session: &Session,
    authorizations: &[Authorization],
    patience: Duration,
) -> Vec<Authorization> {
    let settled = authorizations
        .iter()
        .filter(|authorization| authorization.status == AuthorizationStatus::Pending)
        .map(|authorization| session.wait_for_authorization(&authorization.url, patience));
    let settled = join_all(settled).await.into_iter().flatten();
    settled.filter(|authorization| authorization.status != AuthorizationStatus::Valid).collect()
}
