//! Read-only observation of the world: what targets hold, what endpoints serve, what the CA says.
//!
//! Nothing here writes, and nothing here fails: what cannot be looked at is [`Fact::Unknown`] with the reason, so that
//! a plan with the CA down still tells what it can.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::Patience;
use certplan_provider::message_of;
use futures::StreamExt;
use futures::stream;
use jiff::SignedDuration;
use jiff::Timestamp;

use crate::acme::AcmeClient;
use crate::acme::AcmeError;
use crate::dns01;
use crate::dns01::Lookup;
use crate::dns01::Providers;
use crate::model::AriRecord;
use crate::model::Capabilities;
use crate::model::CertificateRecord;
use crate::model::ChallengeLocation;
use crate::model::Deployed;
use crate::model::Desired;
use crate::model::DirectoryFacts;
use crate::model::Endpoint;
use crate::model::Fact;
use crate::model::Fingerprint;
use crate::model::Fqdn;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Observed;
use crate::model::Served;
use crate::model::Slot;
use crate::probe;
use crate::probe::ProbeError;
use crate::probe::ProbeOptions;

/// How many questions are open at once.
const AT_ONCE: usize = 64;

/// How many slots a target is asked for together.
const TOGETHER: usize = 16;

/// What a refresh looks with.
#[derive(Debug)]
pub struct Refresh<'a> {
    /// What the user wants.
    pub desired: &'a Desired,
    /// What state remembers, by certificate.
    pub records: BTreeMap<&'a Name, &'a CertificateRecord>,
    /// A client per issuer.
    pub issuers: &'a BTreeMap<Name, Arc<AcmeClient>>,
    /// The DNS providers.
    pub providers: &'a Providers,
    /// Looks up names for delegation.
    pub lookup: &'a dyn Lookup,
    /// The deploy targets that could be built.
    pub targets: &'a BTreeMap<Name, Arc<dyn DeployTarget>>,
    /// The run.
    pub context: &'a Context,
}

impl Refresh<'_> {
    /// Looks at targets, endpoints and renewal information of every certificate that `selected` names.
    pub async fn observe(&self, selected: impl Fn(&Name) -> bool) -> Observed {
        let records: Vec<(&Name, &CertificateRecord)> = self
            .records
            .iter()
            .map(|(name, record)| (*name, *record))
            .filter(|(name, _)| selected(name))
            .collect();
        let (deployments, served, ari) = futures::join!(
            self.deployments(&records),
            self.served(&records),
            self.renewal_information(&records)
        );
        let (slots, capabilities) = self.places();
        Observed {
            deployments,
            served,
            ari,
            slots,
            capabilities,
            clocks: self.clocks(),
            ..Observed::default()
        }
    }

    /// The clocks of the CAs that were asked for something.
    fn clocks(&self) -> BTreeMap<Name, SignedDuration> {
        let told =
            self.issuers.iter().filter_map(|(issuer, client)| Some((issuer.clone(), client.clock_ahead()?)));
        told.collect()
    }

    /// Where wanted deployments go, and what their targets can do. Asks nobody.
    fn places(&self) -> (BTreeMap<(Name, Name), Slot>, BTreeMap<Name, Capabilities>) {
        let wanted = self.desired.certificates.values().flat_map(|certificate| {
            certificate.deploy.iter().map(move |deployment| (&certificate.name, deployment))
        });
        let slots = wanted.filter_map(|(name, deployment)| {
            let target = self.targets.get(&deployment.target)?;
            let slot = target.slot(name.as_str(), &deployment.parameters).ok()?;
            Some(((name.clone(), deployment.target.clone()), slot))
        });
        let slots = slots.collect();
        let capabilities =
            self.targets.iter().map(|(name, target)| (name.clone(), target.capabilities())).collect();
        (slots, capabilities)
    }

    /// Looks at what issuing will need: the directories of these issuers, and where the names' challenges go.
    pub async fn prepare(&self, observed: &mut Observed, issuers: &BTreeSet<Name>, names: &NameSet) {
        let bases: BTreeSet<&Fqdn> = names.iter().map(crate::model::CertName::base).collect();
        let directories =
            stream::iter(issuers).map(|issuer| async { (issuer.clone(), self.directory(issuer).await) });
        let challenges = stream::iter(bases).map(|base| async { (base.clone(), self.challenge(base).await) });
        let (directories, challenges) = futures::join!(
            directories.buffer_unordered(AT_ONCE).collect::<BTreeMap<_, _>>(),
            challenges.buffer_unordered(AT_ONCE).collect::<BTreeMap<_, _>>()
        );
        observed.directories.extend(directories);
        observed.challenges.extend(challenges);
        observed.clocks.extend(self.clocks());
    }

    async fn deployments(
        &self,
        records: &[(&Name, &CertificateRecord)],
    ) -> BTreeMap<(Name, Name), Fact<Deployed>> {
        let mut by_target: BTreeMap<&Name, Vec<(&Name, &Slot)>> = BTreeMap::new();
        for (name, record) in records {
            for (target, deployment) in &record.deployments {
                by_target.entry(target).or_default().push((name, &deployment.slot));
            }
        }
        let groups: Vec<_> = by_target
            .iter()
            .flat_map(|(target, slots)| slots.chunks(TOGETHER).map(move |slots| (*target, slots)))
            .collect();
        stream::iter(groups)
            .map(|(target, slots)| async move { self.group(target, slots).await })
            .buffer_unordered(AT_ONCE / TOGETHER)
            .flat_map(stream::iter)
            .collect()
            .await
    }

    /// Looks at some slots of one target.
    async fn group(&self, target: &Name, slots: &[(&Name, &Slot)]) -> Vec<((Name, Name), Fact<Deployed>)> {
        let at = |name: &Name| (name.clone(), target.clone());
        let Some(built) = self.targets.get(target) else {
            let unknown = || Fact::Unknown(format!("the target `{target}` is not in the configuration"));
            return slots.iter().map(|(name, _)| (at(name), unknown())).collect();
        };
        let places: Vec<&Slot> = slots.iter().map(|(_, slot)| *slot).collect();
        let observed = built.observe_all(self.context, &places).await.into_iter().map(|seen| match seen {
            Ok(Some(deployed)) => Fact::Present(deployed),
            Ok(None) => Fact::Absent,
            Err(error) => Fact::Unknown(message_of(&error)),
        });
        slots.iter().map(|(name, _)| at(name)).zip(observed).collect()
    }

    /// Asks every endpoint once, though several certificates may name it.
    async fn served(&self, records: &[(&Name, &CertificateRecord)]) -> BTreeMap<Name, Vec<Served>> {
        let wanted: BTreeMap<&Name, BTreeSet<&Endpoint>> = records
            .iter()
            .filter(|(_, record)| record.current.is_some())
            .map(|(name, record)| {
                let mut endpoints: BTreeSet<&Endpoint> = BTreeSet::new();
                if let Some(desired) = self.desired.certificates.get(*name) {
                    endpoints.extend(desired.endpoints());
                }
                // What is deployed and no longer wanted is removed only where it has ceased to serve.
                endpoints.extend(record.deployments.values().flat_map(|deployment| &deployment.verify));
                (*name, endpoints)
            })
            .filter(|(_, endpoints)| !endpoints.is_empty())
            .collect();
        let endpoints: BTreeSet<&Endpoint> = wanted.values().flatten().copied().collect();
        // Many names live at one load balancer; when it is silent, not each of them has to wait for it.
        let at = |endpoint: &Endpoint| (endpoint.host.clone(), endpoint.port);
        let patience: BTreeMap<_, Patience<ProbeError>> =
            endpoints.iter().map(|endpoint| (at(endpoint), Patience::new())).collect();
        let leaves: BTreeMap<&Endpoint, _> = stream::iter(endpoints)
            .map(|endpoint| {
                let patience = &patience[&at(endpoint)];
                async move { (endpoint, served(endpoint, patience).await) }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        wanted
            .into_iter()
            .map(|(name, endpoints)| {
                let served = endpoints
                    .into_iter()
                    .filter_map(|endpoint| {
                        leaves
                            .get(endpoint)
                            .map(|leaf| Served { endpoint: endpoint.clone(), leaf: leaf.clone() })
                    })
                    .collect();
                (name.clone(), served)
            })
            .collect()
    }

    /// Asks the CAs for renewal windows where that is due; elsewhere what state remembers holds.
    async fn renewal_information(
        &self,
        records: &[(&Name, &CertificateRecord)],
    ) -> BTreeMap<Name, Fact<AriRecord>> {
        let patience: BTreeMap<&Name, Patience<AcmeError>> =
            self.issuers.keys().map(|issuer| (issuer, Patience::new())).collect();
        stream::iter(records)
            .map(|(name, record)| {
                let patience = &patience;
                async move { Some(((*name).clone(), self.window(name, record, patience).await?)) }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    async fn window(
        &self,
        name: &Name,
        record: &CertificateRecord,
        patience: &BTreeMap<&Name, Patience<AcmeError>>,
    ) -> Option<Fact<AriRecord>> {
        let current = record.current.as_ref()?;
        let desired = self.desired.certificates.get(name)?;
        let now = self.context.now;
        if let Some(known) = &record.ari
            && known.fingerprint == current.facts.fingerprint
            && !known.is_due(now)
        {
            return Some(Fact::Present(known.clone()));
        }
        // RFC 9773, section 4.3.3: not after the certificate has expired. Nor at another issuer than its own.
        let issuer = self.desired.issuers.get(&desired.issuer)?.acme();
        if now >= current.facts.not_after || issuer.directory.as_str() != current.directory {
            return None;
        }
        let id = current.facts.ari_id.as_deref()?;
        let (client, patience) = (self.issuers.get(&desired.issuer)?, patience.get(&desired.issuer)?);
        Some(self.ask(client, patience, id, current.facts.fingerprint, now).await)
    }

    async fn ask(
        &self,
        client: &AcmeClient,
        patience: &Patience<AcmeError>,
        id: &str,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Fact<AriRecord> {
        match client.directory().await {
            Ok(directory) if !directory.renewal_info => return Fact::Absent,
            Ok(_) => {}
            Err(error) => return Fact::Unknown(message_of(&error)),
        }
        match patience.ask(AcmeError::is_retryable, client.renewal_info(id)).await {
            Ok(information) => {
                let wait = SignedDuration::try_from(information.retry_after)
                    .unwrap_or(SignedDuration::from_hours(6));
                Fact::Present(AriRecord {
                    fingerprint,
                    window: information.window,
                    explanation_url: information.explanation_url,
                    fetched: now,
                    next_check: now.checked_add(wait).unwrap_or(Timestamp::MAX),
                })
            }
            Err(error) => Fact::Unknown(message_of(&error)),
        }
    }

    async fn directory(&self, issuer: &Name) -> Fact<DirectoryFacts> {
        let Some(client) = self.issuers.get(issuer) else {
            return Fact::Unknown(format!("the issuer `{issuer}` is not in the configuration"));
        };
        match client.directory().await {
            Ok(directory) => Fact::Present(DirectoryFacts {
                profiles: directory.profiles,
                renewal_info: directory.renewal_info,
                external_account_required: directory.external_account_required,
                terms_of_service: directory.terms_of_service,
            }),
            Err(error) => Fact::Unknown(message_of(&error)),
        }
    }

    async fn challenge(&self, base: &Fqdn) -> Fact<ChallengeLocation> {
        let challenge = match base.prepend("_acme-challenge") {
            Ok(challenge) => challenge,
            Err(error) => return Fact::Unknown(message_of(&error)),
        };
        match dns01::locate(self.context, self.providers, self.lookup, &challenge).await {
            Ok(located) => Fact::Present(located.location),
            Err(error) => Fact::Unknown(message_of(&error)),
        }
    }
}

/// What an endpoint serves at all of its addresses.
async fn served(endpoint: &Endpoint, patience: &Patience<ProbeError>) -> Fact<Fingerprint> {
    let leaf = async { probe::probe(endpoint, ProbeOptions::default()).await?.leaf() };
    match patience.ask(ProbeError::is_silence, leaf).await {
        Ok(leaf) => Fact::Present(leaf),
        Err(error) => Fact::Unknown(message_of(&error)),
    }
}
