//! A small world to plan in, and what is expected of plans in it.

mod accounts;
mod certificates;
mod deployments;
mod gates;
pub(crate) mod machines;
mod operations;
mod properties;
mod removals;
mod renewals;
mod saved;
mod selection;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use crate::model::AcmeIssuer;
use crate::model::Address;
use crate::model::AriRecord;
use crate::model::Capabilities;
use crate::model::CertName;
use crate::model::CertificateFacts;
use crate::model::CertificateRecord;
use crate::model::ChallengeLocation;
use crate::model::Deployed;
use crate::model::DeploymentRecord;
use crate::model::Desired;
use crate::model::DesiredCertificate;
use crate::model::DesiredDeployment;
use crate::model::DesiredDnsProvider;
use crate::model::DesiredIssuer;
use crate::model::DesiredTarget;
use crate::model::DirectoryFacts;
use crate::model::Encryption;
use crate::model::Endpoint;
use crate::model::Fact;
use crate::model::Fingerprint;
use crate::model::Fqdn;
use crate::model::Issuance;
use crate::model::Issued;
use crate::model::KeyOrigin;
use crate::model::KeyPolicy;
use crate::model::KeyType;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Observed;
use crate::model::OnRemove;
use crate::model::Operation;
use crate::model::Propagation;
use crate::model::ReadBack;
use crate::model::SealedKey;
use crate::model::Served;
use crate::model::Slot;
use crate::model::StateBackend;
use crate::model::Update;
use crate::model::Zone;

use super::Action;
use super::Cause;
use super::Change;
use super::Plan;
use super::PlanInput;
use super::PlanOptions;
use super::Prior;
use super::PriorAccount;
use super::PriorCertificate;
use super::Reason;
use super::plan;

pub(crate) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
pub(crate) const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// The certificates of the world are valid from here, for 90 days: until 2026-11-30, due on 2026-10-31.
pub(crate) const ISSUED: &str = "2026-09-01T00:00:00Z";
/// Nothing is due yet.
pub(crate) const EARLY: &str = "2026-10-01T00:00:00Z";
/// Ninety days after `ISSUED` less one: everything is due.
pub(crate) const LATE: &str = "2026-11-29T00:00:00Z";

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().unwrap()
}

pub(crate) fn names(texts: &[&str]) -> NameSet {
    texts.iter().map(|text| CertName::new(text).unwrap()).collect()
}

pub(crate) fn fingerprint(seed: &str) -> Fingerprint {
    crate::model::sha256(seed.as_bytes())
}

pub(crate) fn endpoint(host: &str) -> Endpoint {
    Endpoint { host: host.to_owned(), port: 443, sni: host.to_owned() }
}

/// Everything that a plan is made of, changed by tests before they plan.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) desired: Desired,
    pub(crate) prior: Prior,
    pub(crate) observed: Observed,
    pub(crate) now: Timestamp,
    pub(crate) options: PlanOptions,
}

impl World {
    /// One issuer with an account, one DNS provider and the targets `edge` and `vault`; no certificates.
    pub(crate) fn empty() -> Self {
        let issuer = AcmeIssuer {
            directory: DIRECTORY.parse().unwrap(),
            contact: vec!["ops@example.com".to_owned()],
            agree_tos: true,
            ca_bundle: None,
            allow_hosts: Vec::new(),
            eab: None,
            account_key: None,
        };
        let provider = DesiredDnsProvider {
            kind: "rfc2136".to_owned(),
            block: json!({}),
            zones: Vec::new(),
            propagation: Propagation::default(),
            allow_private_servers: false,
        };
        let target = |kind: &str| DesiredTarget { kind: kind.to_owned(), block: json!({}) };
        let desired = Desired {
            project: name("shop"),
            base: PathBuf::from("."),
            state: StateBackend::Local { path: PathBuf::from(".certplan/state") },
            encryption: Some(Encryption { recipients: vec!["age1ci".to_owned()], keys: Vec::new() }),
            issuers: BTreeMap::from([(name("le"), DesiredIssuer::Acme(issuer))]),
            dns: BTreeMap::from([(name("ns"), provider)]),
            targets: BTreeMap::from([(name("edge"), target("files")), (name("vault"), target("vault_kv"))]),
            certificates: BTreeMap::new(),
            moved: Vec::new(),
        };
        let prior = Prior {
            lineage: Some("lineage".to_owned()),
            accounts: BTreeMap::from([(name("le"), account(DIRECTORY))]),
            ..Prior::default()
        };
        let capabilities = Capabilities {
            read_back: ReadBack::Certificate,
            update: Update::InPlace,
            compare_and_swap: false,
            key_types: KeyType::ALL.to_vec(),
            max_size: None,
            key_origin: KeyOrigin::Local,
        };
        let observed = Observed {
            directories: BTreeMap::from([(name("le"), Fact::Present(directory_facts()))]),
            capabilities: BTreeMap::from([
                (name("edge"), capabilities.clone()),
                (name("vault"), capabilities),
            ]),
            ..Observed::default()
        };
        Self { desired, prior, observed, now: time(EARLY), options: PlanOptions::default() }
    }

    /// One certificate `shop` in the configuration, deployed to `edge`; nothing in state.
    pub(crate) fn new_shop() -> Self {
        let mut world = Self::empty();
        world.want("shop", &["shop.example.com", "*.shop.example.com"]);
        world
    }

    /// The same, issued and deployed as it should be.
    pub(crate) fn shop() -> Self {
        let mut world = Self::new_shop();
        world.settle("shop");
        world
    }

    /// Wants a certificate, deployed to `edge`.
    pub(crate) fn want(&mut self, certificate: &str, of: &[&str]) {
        let wanted = DesiredCertificate {
            name: name(certificate),
            names: names(of),
            issuer: name("le"),
            profile: None,
            key: KeyPolicy::default(),
            preferred_chain: None,
            renew: None,
            labels: BTreeMap::from([("team".to_owned(), "checkout".to_owned())]),
            deploy: Vec::new(),
            verify: Vec::new(),
        };
        self.desired.certificates.insert(name(certificate), wanted);
        self.deploy(certificate, "edge");
    }

    /// Wants a deployment.
    pub(crate) fn deploy(&mut self, certificate: &str, target: &str) {
        let entry = DesiredDeployment {
            target: name(target),
            parameters: json!({}),
            on_remove: OnRemove::Remove,
            verify: Vec::new(),
        };
        self.wanted(certificate).deploy.push(entry);
        self.observed.slots.insert((name(certificate), name(target)), slot(certificate, target));
        for wanted in self.wanted(certificate).names.clone() {
            self.observed.challenges.insert(wanted.base().clone(), Fact::Present(location(&wanted)));
        }
    }

    /// Puts into state, and into the world, what is wanted.
    pub(crate) fn settle(&mut self, certificate: &str) {
        let wanted = self.wanted(certificate).clone();
        let directory = self.desired.issuers[&wanted.issuer].acme().directory.to_string();
        let current = issued(certificate, &wanted, &directory);
        let mut record = CertificateRecord {
            issuances: vec![Issuance {
                at: current.issued_at,
                directory,
                names: wanted.names.clone(),
                spki: current.facts.spki,
                replaces: false,
            }],
            ..CertificateRecord::default()
        };
        for entry in &wanted.deploy {
            let kind = self.desired.targets[&entry.target].kind.clone();
            let slot = slot(certificate, entry.target.as_str());
            record.deployments.insert(
                entry.target.clone(),
                Box::new(DeploymentRecord {
                    kind,
                    slot,
                    fingerprint: current.facts.fingerprint,
                    deployed_at: current.issued_at,
                    receipt: None,
                    on_remove: entry.on_remove,
                    verify: entry.verify.clone(),
                }),
            );
            self.observed.deployments.insert(
                (name(certificate), entry.target.clone()),
                Fact::Present(held(current.facts.fingerprint)),
            );
        }
        let served = wanted
            .endpoints()
            .into_iter()
            .map(|endpoint| Served {
                endpoint: endpoint.clone(),
                leaf: Fact::Present(current.facts.fingerprint),
            })
            .collect();
        self.observed.served.insert(name(certificate), served);
        record.current = Some(current);
        self.prior.certificates.insert(
            name(certificate),
            PriorCertificate { record: Box::new(record), revision: 7, key_readable: true },
        );
    }

    pub(crate) fn wanted(&mut self, certificate: &str) -> &mut DesiredCertificate {
        self.desired.certificates.get_mut(&name(certificate)).unwrap()
    }

    pub(crate) fn issuer(&mut self) -> &mut AcmeIssuer {
        let DesiredIssuer::Acme(issuer) = self.desired.issuers.get_mut(&name("le")).unwrap();
        issuer
    }

    pub(crate) fn directory(&mut self) -> &mut DirectoryFacts {
        match self.observed.directories.get_mut(&name("le")) {
            Some(Fact::Present(facts)) => facts,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn record(&mut self, certificate: &str) -> &mut CertificateRecord {
        &mut self.prior.certificates.get_mut(&name(certificate)).unwrap().record
    }

    pub(crate) fn current(&mut self, certificate: &str) -> &mut Issued {
        self.record(certificate).current.as_mut().unwrap()
    }

    /// Says what the target holds.
    pub(crate) fn holds(&mut self, certificate: &str, target: &str, fact: Fact<Deployed>) {
        self.observed.deployments.insert((name(certificate), name(target)), fact);
    }

    /// Says what all endpoints of the certificate serve.
    pub(crate) fn serves(&mut self, certificate: &str, endpoints: &[Endpoint], leaf: Fact<Fingerprint>) {
        let served = endpoints
            .iter()
            .map(|endpoint| Served { endpoint: endpoint.clone(), leaf: leaf.clone() })
            .collect();
        self.observed.served.insert(name(certificate), served);
    }

    /// Says what window the CA suggests.
    pub(crate) fn window(&mut self, certificate: &str, from: &str, to: &str) {
        let ari = AriRecord {
            fingerprint: self.current(certificate).facts.fingerprint,
            window: Some((time(from), time(to))),
            explanation_url: None,
            fetched: self.now,
            next_check: self.now,
        };
        self.observed.ari.insert(name(certificate), Fact::Present(ari));
    }

    /// Leaves an operation open.
    pub(crate) fn interrupt(&mut self, certificate: &str, stage: &str) -> &mut Operation {
        let wanted = self.wanted(certificate).clone();
        let directory = self.desired.issuers[&wanted.issuer].acme().directory.to_string();
        let key = SealedKey {
            key_type: wanted.key.key_type,
            spki: fingerprint("new key"),
            recipients: vec!["age1ci".to_owned()],
            armored: String::new(),
        };
        // From JSON, for the journal gains fields.
        let operation = serde_json::from_value(json!({
            "id": "0123456789abcdef0123456789abcdef",
            "cause": "config",
            "reason": "create_because_new",
            "started": "2026-09-30T23:00:00Z",
            "stage": stage,
            "names": wanted.names,
            "issuer": wanted.issuer,
            "directory": directory,
            "profile": wanted.profile,
            "preferred_chain": wanted.preferred_chain,
            "key": { "sealed": key },
            "txt": [{
                "provider": "ns",
                "zone": { "id": "example.com", "name": "example.com" },
                "name": "_acme-challenge.shop.example.com",
                "value": "x",
                "state": "intent"
            }]
        }))
        .unwrap();
        let entry = self.prior.certificates.entry(name(certificate)).or_insert_with(|| PriorCertificate {
            record: Box::default(),
            revision: 7,
            key_readable: true,
        });
        entry.record.operation.insert(operation)
    }

    /// Plans, and checks what holds of every plan.
    pub(crate) fn plan(&self) -> Plan {
        let planned = plan(&PlanInput {
            desired: &self.desired,
            prior: &self.prior,
            observed: &self.observed,
            now: self.now,
            options: &self.options,
        });
        assert!(
            planned.changes.windows(2).all(|pair| pair[0].address < pair[1].address),
            "changes are sorted, and an address has one: {planned:#?}"
        );
        planned
    }

    /// Plans, and returns each change as `symbol address cause reason`.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.plan())
    }
}

pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .map(|change| {
            format!("{} {} {} {}", change.action.symbol(), change.address, change.cause, change.reason)
        })
        .collect()
}

pub(crate) fn find<'p>(plan: &'p Plan, of: &str) -> &'p Change {
    plan.changes
        .iter()
        .find(|change| change.address == address(of))
        .unwrap_or_else(|| panic!("no change of {of} in {:?}", lines(plan)))
}

pub(crate) fn messages(plan: &Plan) -> Vec<String> {
    plan.errors.iter().map(|error| error.message.clone()).collect()
}

pub(crate) fn warnings(plan: &Plan) -> Vec<String> {
    plan.warnings.iter().map(|warning| warning.message.clone()).collect()
}

pub(crate) fn slot(certificate: &str, target: &str) -> Slot {
    Slot { location: format!("/{target}/{certificate}"), parameters: json!({ "mode": "0640" }) }
}

pub(crate) fn held(fingerprint: Fingerprint) -> Deployed {
    Deployed { fingerprint: Some(fingerprint), ..Deployed::default() }
}

pub(crate) fn account(directory: &str) -> PriorAccount {
    let record = serde_json::from_value(json!({
        "directory": directory,
        "url": "https://ca.example/acct/1",
        "contact": ["ops@example.com"],
        "key": { "key_type": "ecdsa-p256", "spki": fingerprint("account"), "recipients": [], "armored": "" }
    }))
    .unwrap();
    PriorAccount { record, revision: 1 }
}

pub(crate) fn issued(seed: &str, wanted: &DesiredCertificate, directory: &str) -> Issued {
    let not_before = time(ISSUED);
    let facts = CertificateFacts {
        fingerprint: fingerprint(seed),
        spki: fingerprint(&format!("{seed} key")),
        serial: "00c0ffee".to_owned(),
        names: wanted.names.clone(),
        not_before,
        not_after: not_before + jiff::SignedDuration::from_hours(90 * 24),
        issuer: "CN=R13".to_owned(),
        key_type: Some(wanted.key.key_type),
        ari_id: Some("aki.serial".to_owned()),
    };
    let key = SealedKey {
        key_type: wanted.key.key_type,
        spki: facts.spki,
        recipients: vec!["age1ci".to_owned()],
        armored: String::new(),
    };
    Issued {
        facts,
        chain_pem: String::new(),
        key,
        issuer: wanted.issuer.clone(),
        directory: directory.to_owned(),
        profile: wanted.profile.clone(),
        preferred_chain: wanted.preferred_chain.clone(),
        issued_at: not_before,
        operation: "00".to_owned(),
    }
}

pub(crate) fn location(of: &CertName) -> ChallengeLocation {
    ChallengeLocation {
        chain: vec![of.challenge_name().unwrap()],
        provider: name("ns"),
        zone: Zone { id: "example.com".to_owned(), name: Fqdn::new("example.com").unwrap() },
    }
}

pub(crate) fn directory_facts() -> DirectoryFacts {
    DirectoryFacts {
        profiles: BTreeMap::from([
            ("classic".to_owned(), String::new()),
            ("shortlived".to_owned(), String::new()),
        ]),
        renewal_info: true,
        external_account_required: false,
        terms_of_service: Some("https://ca.example/terms".to_owned()),
    }
}
