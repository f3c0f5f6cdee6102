use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use url::Url;

use crate::model::Issuance;
use crate::model::NameSet;

use super::clock::noted_wrongly;
use super::input::Prior;
use super::renewal::at;

const WEEK: i64 = 7 * 24 * 3_600;

/// How often the same names may be renewed within a week, or within a shorter lifetime, before something else must be
/// wrong.
const RENEWALS_PER_SPAN: usize = 5;

/// Let's Encrypt: certificates for the exact same names in a week, refilled one by one
/// (<https://letsencrypt.org/docs/rate-limits/>).
const EXACT_SET: i64 = 5;
/// Let's Encrypt: certificates with new names in a week under a registered domain.
const REGISTERED_DOMAIN: usize = 50;

/// What was issued lately, over all projects of the store.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    by_set: BTreeMap<(&'a str, &'a NameSet), Vec<&'a Issuance>>,
    /// Issuances under a registered domain that counted as new names, and those that this plan adds.
    by_domain: BTreeMap<String, usize>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(prior: &'a Prior, now: Timestamp) -> Self {
        let mut by_set: BTreeMap<_, Vec<&Issuance>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let own = prior.certificates.values().flat_map(|certificate| &certificate.record.issuances);
        for issuance in own.chain(&prior.foreign_issuances) {
            if !noted_wrongly(issuance.at, now) && seen.insert((issuance.spki, issuance.at)) {
                by_set.entry((issuance.directory.as_str(), &issuance.names)).or_default().push(issuance);
            }
        }
        let mut by_domain = BTreeMap::new();
        for ((directory, names), issuances) in &mut by_set {
            issuances.sort_by_key(|issuance| issuance.at);
            if !is_lets_encrypt(directory) {
                continue;
            }
            // A renewal of the same names does not count against the domain; the first of them does.
            let Some(first) = issuances.iter().find(|issuance| !issuance.replaces) else { continue };
            if now.as_second() - first.at.as_second() < WEEK {
                for domain in registered_domains(names) {
                    *by_domain.entry(domain).or_default() += 1;
                }
            }
        }
        Self { by_set, by_domain }
    }

    /// When the CA issues again for exactly these names; `None` when it does now.
    ///
    /// The bucket is Let's Encrypt's; of other CAs no such limit is known. Renewals through ARI are not counted.
    pub(super) fn exact_set(&self, directory: &str, names: &NameSet, now: Timestamp) -> Option<Timestamp> {
        if !is_lets_encrypt(directory) {
            return None;
        }
        let refill = WEEK / EXACT_SET;
        let full_at = self
            .issuances(directory, names)
            .iter()
            .filter(|issuance| !issuance.replaces)
            .fold(i64::MIN, |full_at, issuance| full_at.max(issuance.at.as_second()).saturating_add(refill));
        let next = full_at.saturating_sub((EXACT_SET - 1) * refill);
        (next > now.as_second()).then(|| at(next))
    }

    /// When these names may be renewed again after they were renewed suspiciously often; `None` when they may now.
    pub(super) fn loop_guard(
        &self,
        directory: &str,
        names: &NameSet,
        lifetime: i64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let span = lifetime.clamp(1, WEEK);
        let issuances = self.issuances(directory, names);
        let fifth = issuances.iter().rev().nth(RENEWALS_PER_SPAN - 1)?;
        let next = fifth.at.as_second().saturating_add(span);
        (next > now.as_second()).then(|| at(next))
    }

    /// Counts a certificate with new names; returns the registered domains for which it is the first beyond the limit.
    pub(super) fn count_new(&mut self, directory: &str, names: &NameSet) -> Vec<String> {
        if !is_lets_encrypt(directory) || !self.issuances(directory, names).is_empty() {
            return Vec::new();
        }
        registered_domains(names)
            .into_iter()
            .filter(|domain| {
                let count = self.by_domain.entry(domain.clone()).or_default();
                *count += 1;
                *count == REGISTERED_DOMAIN + 1
            })
            .collect()
    }

    fn issuances<'s>(&'s self, directory: &'s str, names: &'s NameSet) -> &'s [&'s Issuance] {
        let by_set: &'s BTreeMap<(&'s str, &'s NameSet), Vec<&'s Issuance>> = &self.by_set;
        by_set.get(&(directory, names)).map_or(&[], Vec::as_slice)
    }
}

fn is_lets_encrypt(directory: &str) -> bool {
    Url::parse(directory).is_ok_and(|url| url.host_str() == Some("acme-v02.api.letsencrypt.org"))
}

fn registered_domains(names: &NameSet) -> BTreeSet<String> {
    names
        .iter()
        .map(|name| {
            let base = name.base().as_str();
            psl::domain_str(base).unwrap_or(base).to_owned()
        })
        .collect()
}
