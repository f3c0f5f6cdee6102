use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::Timestamp;

use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::Desired;
use crate::model::DesiredCertificate;
use crate::model::Name;

use super::LeftOut;
use super::NextRenewal;
use super::Plan;
use super::cause::Cause;
use super::change::Change;
use super::change::Deferral;
use super::change::Drift;
use super::change::PlanError;
use super::change::PlanErrorKind;
use super::change::Warning;
use super::input::Only;
use super::input::PlanInput;
use super::input::PriorCertificate;
use super::limits::Ledger;

/// What a selection or a part of it that matches nothing could have named.
const SELECTION_HELP: &str = "`certplan plan` without a selection shows the addresses; globs are matched against \
                              `certificate/NAME`, `deployment/NAME/TARGET` and `account/ISSUER`";

/// What is gathered while the certificates are gone through one by one.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) input: &'a PlanInput<'a>,
    pub(super) desired: &'a Desired,
    everything_selected: bool,
    pub(super) replace: BTreeSet<&'a Address>,
    /// The name in state of certificates that are renamed, by their new names.
    renamed: BTreeMap<&'a Name, &'a Name>,
    ledger: Option<Ledger<'a>>,
    pub(super) changes: Vec<Change>,
    pub(super) drift: Vec<Drift>,
    pub(super) deferred: Vec<Deferral>,
    pub(super) left_out: LeftOut,
    pub(super) warnings: Vec<Warning>,
    pub(super) errors: Vec<PlanError>,
    pub(super) next_renewal: Option<NextRenewal>,
    /// Issuers whose account is needed.
    pub(super) accounts: BTreeSet<&'a Name>,
    /// How many certificates wait for an issuer's account that cannot be created.
    pub(super) blocked: BTreeMap<&'a Name, usize>,
    /// How many certificates wait for `encryption:`.
    pub(super) unencrypted: usize,
    /// How many certificates are due at issuers whose directory could not be read, and why.
    pub(super) unreachable: BTreeMap<&'a Name, (usize, &'a str)>,
    /// How many certificates have no renewal information because it could not be read, and why, for the first.
    pub(super) without_ari: (usize, &'a str),
    /// Certificates that begin later than the clock says it is, by issuer.
    pub(super) not_begun: BTreeMap<&'a Name, Vec<(Timestamp, &'a Name)>>,
    selected: usize,
    looked_at: usize,
}

/// A certificate with what state remembers of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) desired: &'a DesiredCertificate,
    pub(super) prior: Option<&'a PriorCertificate>,
    /// The name in state, when it is another.
    pub(super) from: Option<&'a Name>,
}

impl<'a> Subject<'a> {
    /// What state remembers of the certificate. What is archived is history: wanted again, it is new.
    pub(super) fn record(&self) -> &'a CertificateRecord {
        static NOTHING: LazyLock<CertificateRecord> = LazyLock::new(CertificateRecord::default);
        self.prior
            .map(|prior| prior.record.as_ref())
            .filter(|record| record.archived.is_none())
            .unwrap_or(&NOTHING)
    }

    /// The name in state, under which the certificate was looked at.
    pub(super) fn name_in_state(&self) -> &'a Name {
        self.from.unwrap_or(&self.desired.name)
    }

    pub(super) fn address(&self) -> Address {
        Address::Certificate(self.desired.name.clone())
    }

    pub(super) fn base_revision(&self) -> u64 {
        self.prior.map_or(0, |prior| prior.revision)
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(input: &'a PlanInput<'a>) -> Self {
        Self {
            input,
            desired: input.desired,
            everything_selected: input.options.selection.is_all(),
            replace: input.options.replace.iter().collect(),
            renamed: renamed(input),
            ledger: None,
            changes: Vec::new(),
            drift: Vec::new(),
            deferred: Vec::new(),
            left_out: LeftOut::default(),
            warnings: Vec::new(),
            errors: Vec::new(),
            next_renewal: None,
            accounts: BTreeSet::new(),
            blocked: BTreeMap::new(),
            unencrypted: 0,
            unreachable: BTreeMap::new(),
            without_ari: (0, ""),
            not_begun: BTreeMap::new(),
            selected: 0,
            looked_at: 0,
        }
    }

    pub(super) fn plan(mut self) -> Plan {
        let desired = self.desired;
        for certificate in desired.certificates.values() {
            let (prior, from) = self.prior(&certificate.name);
            self.certificate(Subject { desired: certificate, prior, from });
        }
        self.removals();
        self.accounts();
        self.summarise();
        self.summarise_clocks();
        self.summarise_custody();
        self.check_selection();
        self.changes.sort_by(|a, b| a.address.cmp(&b.address));
        self.drift.sort_by(|a, b| (&a.address, a.reason).cmp(&(&b.address, b.reason)));
        self.deferred.sort_by(|a, b| a.address.cmp(&b.address));
        self.warnings.sort();
        self.warnings.dedup();
        self.errors.sort();
        self.errors.dedup();
        Plan {
            project: desired.project.clone(),
            lineage: self.input.prior.lineage.clone(),
            now: self.input.now,
            refreshed: self.input.options.refreshed,
            changes: self.changes,
            drift: self.drift,
            deferred: self.deferred,
            left_out: self.left_out,
            warnings: self.warnings,
            errors: self.errors,
            certificates: self.looked_at,
            next_renewal: self.next_renewal,
        }
    }

    pub(super) fn prior(&self, name: &'a Name) -> (Option<&'a PriorCertificate>, Option<&'a Name>) {
        let certificates = &self.input.prior.certificates;
        if let Some(prior) = certificates.get(name) {
            return (Some(prior), None);
        }
        match self.renamed.get(name) {
            Some(from) => (certificates.get(*from), Some(from)),
            None => (None, None),
        }
    }

    /// The names in state of certificates that have another name now.
    pub(super) fn names_before(&self) -> BTreeSet<&'a Name> {
        self.renamed.values().copied().collect()
    }

    /// What was issued lately: worked out when it is first needed, for most plans issue nothing.
    pub(super) fn ledger(&mut self) -> &mut Ledger<'a> {
        let (prior, now) = (self.input.prior, self.input.now);
        self.ledger.get_or_insert_with(|| Ledger::new(prior, now))
    }

    /// Whether an address is selected; counts those that are.
    pub(super) fn selects(&mut self, address: &Address, labels: &BTreeMap<String, String>) -> bool {
        let hit = self.everything_selected || self.input.options.selection.matches(address, labels);
        if hit {
            self.selected += 1;
            self.looked_at += usize::from(matches!(address, Address::Certificate(_)));
        }
        hit
    }

    /// Whether `--only` takes a change; counts those that it leaves out.
    pub(super) fn takes(&mut self, cause: Cause, interrupted: bool) -> bool {
        let Some(only) = self.input.options.only else { return true };
        if only.takes(cause, interrupted) {
            return true;
        }
        match cause {
            Cause::Config | Cause::Request => self.left_out.config += 1,
            Cause::Drift => self.left_out.drift += 1,
            Cause::Ca | Cause::Time => self.left_out.renewals += 1,
        }
        false
    }

    pub(super) fn only(&self) -> Option<Only> {
        self.input.options.only
    }

    pub(super) fn warn(&mut self, address: Address, message: impl Into<String>, help: Option<&str>) {
        self.warnings.push(Warning {
            address: Some(address),
            message: message.into(),
            help: help.map(str::to_owned),
        });
    }

    pub(super) fn fail(
        &mut self,
        address: Option<Address>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.errors.push(PlanError {
            address,
            kind: PlanErrorKind::Failed,
            message: message.into(),
            help: help.into(),
        });
    }

    /// Every address of the configuration and of state, whatever is selected.
    fn known_addresses(&self) -> impl Iterator<Item = Address> + use<'a> {
        let (desired, prior) = (self.desired, self.input.prior);
        let wanted = desired.certificates.values().flat_map(|certificate| {
            let targets = certificate.deploy.iter().map(|entry| &entry.target);
            addresses_of(&certificate.name, targets)
        });
        let recorded = prior
            .certificates
            .iter()
            .flat_map(|(name, known)| addresses_of(name, known.record.deployments.keys()));
        let issuers = desired.issuers.keys().chain(prior.accounts.keys());
        wanted.chain(recorded).chain(issuers.map(|issuer| Address::Account(issuer.clone())))
    }

    fn check_selection(&mut self) {
        let options = self.input.options;
        if !self.everything_selected && self.selected == 0 {
            let known =
                self.desired.issuers.keys().any(|issuer| {
                    options.selection.matches(&Address::Account(issuer.clone()), &BTreeMap::new())
                });
            if !known {
                self.fail(None, "the selection matches nothing", SELECTION_HELP.to_owned());
            }
        }
        // What a typo would have left out is applied otherwise.
        for glob in options.selection.idle_excludes(self.known_addresses()) {
            let message = format!("`--exclude {glob}` matches nothing");
            self.fail(None, message, SELECTION_HELP.to_owned());
        }
        // No error: a pipeline may name what it allowed to remove when it is gone.
        for address in &options.allow_remove {
            if self.known_addresses().all(|known| known != *address) {
                let message = "`--allow-remove` names what is neither configured nor in state";
                self.warn(address.clone(), message, Some("`certplan state list` shows what is in state"));
            }
        }
        for address in &options.replace {
            let certificate = address.certificate().and_then(|name| self.desired.certificates.get(name));
            let known = match address {
                Address::Account(_) => {
                    self.fail(
                        Some(address.clone()),
                        "an account cannot be replaced through `--replace`",
                        "name a certificate or a deployment".to_owned(),
                    );
                    continue;
                }
                Address::Certificate(_) => certificate.is_some(),
                Address::Deployment(_, target) => {
                    certificate.is_some_and(|found| found.deploy.iter().any(|entry| entry.target == *target))
                }
            };
            if !known {
                self.fail(Some(address.clone()), "`--replace` names what is not in the configuration", None);
            } else if !self.everything_selected
                && !certificate.is_some_and(|found| options.selection.matches(address, &found.labels))
            {
                self.fail(
                    Some(address.clone()),
                    "`--replace` names what the selection leaves out",
                    "select it as well".to_owned(),
                );
            }
        }
        if options.only.is_some_and(|only| only != Only::Config) && !options.replace.is_empty() {
            self.fail(
                None,
                "`--replace` asks for what `--only` leaves out",
                "use `--only config`, or leave `--only` out".to_owned(),
            );
        }
    }
}

/// The address of a certificate and those of its deployments.
fn addresses_of<'n>(
    certificate: &'n Name,
    targets: impl Iterator<Item = &'n Name>,
) -> impl Iterator<Item = Address> {
    let deployments = targets.map(|target| Address::Deployment(certificate.clone(), target.clone()));
    std::iter::once(Address::Certificate(certificate.clone())).chain(deployments)
}

/// Follows `moved:` from each certificate that state does not know back to one that it does.
fn renamed<'a>(input: &PlanInput<'a>) -> BTreeMap<&'a Name, &'a Name> {
    let (desired, prior) = (input.desired, input.prior);
    let mut from_of = BTreeMap::new();
    for moved in &desired.moved {
        from_of.entry(&moved.to).or_insert(&moved.from);
    }
    let mut taken = BTreeSet::new();
    let mut renamed = BTreeMap::new();
    for to in desired.certificates.keys().filter(|name| !prior.certificates.contains_key(*name)) {
        let mut name = to;
        // As many steps as there are entries: a ring ends too.
        for _ in 0..desired.moved.len() {
            let Some(from) = from_of.get(name) else { break };
            name = from;
            let known = prior.certificates.get(name).is_some_and(|found| found.record.archived.is_none());
            if known {
                if !desired.certificates.contains_key(name) && taken.insert(name) {
                    renamed.insert(to, name);
                }
                break;
            }
        }
    }
    renamed
}
