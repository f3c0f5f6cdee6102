//! What must hold before a certificate is ordered.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use jiff::Timestamp;

use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::DesiredCertificate;
use crate::model::DesiredIssuer;
use crate::model::Fact;
use crate::model::Issued;
use crate::model::KeyType;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Operation;

use super::cause::Cause;
use super::cause::Reason;
use super::change::Deferral;
use super::change::WaitsFor;
use super::clock::noted_wrongly;
use super::planner::Planner;
use super::planner::Subject;
use super::renewal::at;

/// The longest wait after a failure, whatever a CA asks for: some send a day for an order that is merely slow.
pub(crate) const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(8 * 24);

/// What is wanted of the CA, for a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) reason: Reason,
    pub(super) cause: Cause,
    /// Whether `--replace` asks for it, alone or as well.
    pub(super) requested: bool,
    /// Whether the CA's window is open, so that its limits do not count.
    pub(super) exempt: bool,
    /// The lifetime of the current certificate in seconds.
    pub(super) lifetime: i64,
    pub(super) record: &'w CertificateRecord,
}

impl<'a> Planner<'a> {
    /// Whether all that an order needs is there. Says what is not.
    pub(super) fn can_order(&mut self, subject: Subject<'a>) -> bool {
        let desired = subject.desired;
        let errors = self.errors.len();
        let mut possible = true;
        if self.desired.encryption.is_none() {
            self.unencrypted += 1;
            possible = false;
        }
        let Some(issuer) = self.desired.issuers.get(&desired.issuer) else {
            self.fail(
                Some(subject.address()),
                format!("the issuer `{}` is not configured", desired.issuer),
                None,
            );
            return false;
        };
        possible &= self.has_account(&desired.issuer, issuer);
        if let Some(Fact::Unknown(why)) = self.input.observed.directories.get(&desired.issuer) {
            self.unreachable.entry(&desired.issuer).or_insert((0, why)).0 += 1;
        }
        if let Some(problem) = self.unknown_profile(subject) {
            self.fail(Some(subject.address()), problem.0, problem.1);
        }
        self.check_challenges(subject.address(), &desired.names);
        self.check_key_types(subject, desired.key.key_type);
        possible && self.errors.len() == errors
    }

    /// Whether the account is there or can be made. One that has to be made is noted by [`need_account`](Self::need_account).
    fn has_account(&mut self, name: &'a Name, issuer: &DesiredIssuer) -> bool {
        if !self.lacks_account(name) {
            return true;
        }
        let issuer = issuer.acme();
        let facts = self.input.observed.directories.get(name).and_then(Fact::present);
        let unbound = facts.is_some_and(|facts| facts.external_account_required)
            && issuer.eab.is_none()
            && issuer.account_key.is_none();
        if unbound || self.terms(name).is_some() {
            *self.blocked.entry(name).or_default() += 1;
            return false;
        }
        true
    }

    /// The terms of service that nobody has agreed to.
    pub(super) fn terms(&self, name: &Name) -> Option<&'a str> {
        let issuer = self.desired.issuers.get(name)?.acme();
        let facts = self.input.observed.directories.get(name).and_then(Fact::present)?;
        if issuer.agree_tos { None } else { facts.terms_of_service.as_deref() }
    }

    /// Notes that the issuer's account is needed, and so made when it is not there.
    pub(super) fn need_account(&mut self, name: &'a Name) {
        if self.lacks_account(name) {
            self.accounts.insert(name);
        }
    }

    /// Whether there is no account that could be used.
    pub(super) fn lacks_account(&self, name: &Name) -> bool {
        let Some(issuer) = self.desired.issuers.get(name) else { return false };
        self.input.prior.accounts.get(name).is_none_or(|account| {
            let record = &account.record;
            record.directory != issuer.acme().directory.as_str()
                || record.operation.is_some()
                || record.url.is_none()
        })
    }

    /// What is wrong with the profile, with help, when the CA says which it has.
    pub(super) fn unknown_profile(&self, subject: Subject<'_>) -> Option<(String, Option<String>)> {
        let profile = subject.desired.profile.as_ref()?;
        let issuer = &subject.desired.issuer;
        let facts = self.input.observed.directories.get(issuer)?.present()?;
        if facts.profiles.contains_key(profile) {
            return None;
        }
        let message = format!("the issuer `{issuer}` has no profile `{profile}`");
        let help = if facts.profiles.is_empty() {
            "the CA offers no profiles: leave `profile` out".to_owned()
        } else {
            let names: Vec<String> = facts.profiles.keys().map(|name| format!("`{name}`")).collect();
            format!("the CA offers {}", names.join(", "))
        };
        Some((message, Some(help)))
    }

    /// Checks that the challenge of each name has a place to go. What was not looked at is not checked.
    pub(super) fn check_challenges(&mut self, address: Address, names: &NameSet) {
        let mut last = None;
        for name in names {
            // An apex and its wildcard are neighbours in the set and share a challenge.
            if last == Some(name.base()) {
                continue;
            }
            last = Some(name.base());
            match self.challenge(name) {
                Some(Fact::Unknown(why)) => self.fail(
                    Some(address.clone()),
                    format!("where the challenge for `{}` goes could not be found out: {why}", name.base()),
                    None,
                ),
                Some(Fact::Absent) => self.fail(
                    Some(address.clone()),
                    format!("no DNS provider in the configuration has a zone for the challenge of `{}`", name.base()),
                    "add the provider of the zone to `dns:`, or delegate `_acme-challenge` to a zone that one of them has"
                        .to_owned(),
                ),
                Some(Fact::Present(_)) | None => {}
            }
        }
    }

    fn challenge(&self, name: &crate::model::CertName) -> Option<&'a Fact<crate::model::ChallengeLocation>> {
        self.input.observed.challenges.get(name.base())
    }

    /// Where the challenges of these names go, for those that are delegated.
    pub(super) fn delegated(&self, names: &NameSet) -> BTreeMap<String, String> {
        names
            .iter()
            .filter_map(|name| self.challenge(name)?.present())
            .filter(|location| location.chain.len() > 1)
            .filter_map(|location| {
                Some((location.chain.first()?.to_string(), location.effective()?.to_string()))
            })
            .collect()
    }

    /// A target that cannot take the key would leave the certificate half deployed: it is not even ordered.
    fn check_key_types(&mut self, subject: Subject<'a>, key_type: KeyType) {
        for entry in &subject.desired.deploy {
            let Some(capabilities) = self.input.observed.capabilities.get(&entry.target) else { continue };
            if !capabilities.key_types.contains(&key_type) {
                let taken: Vec<&str> = capabilities.key_types.iter().map(|known| known.as_str()).collect();
                self.fail(
                    Some(Address::Deployment(subject.desired.name.clone(), entry.target.clone())),
                    format!("the target cannot take a key of the type `{key_type}`"),
                    format!("it takes {}: set `key: {{ type: ... }}` at the certificate", taken.join(", ")),
                );
            }
        }
    }

    /// TXT values of an operation are removed through the provider that made them.
    pub(super) fn can_clean_up(&mut self, address: &Address, operation: &Operation) -> bool {
        let mut missing: Vec<&Name> = operation
            .txt
            .iter()
            .map(|txt| &txt.provider)
            .filter(|provider| !self.desired.dns.contains_key(*provider))
            .collect();
        missing.sort();
        missing.dedup();
        for provider in &missing {
            let count = operation.txt.iter().filter(|txt| txt.provider == **provider).count();
            self.fail(
                Some(address.clone()),
                format!(
                    "the DNS provider `{provider}` is gone from the configuration and still holds {count} TXT {} of an interrupted operation",
                    if count == 1 { "value" } else { "values" },
                ),
                format!("put `{provider}` back under `dns:`, run `certplan apply`, and then remove it"),
            );
        }
        missing.is_empty()
    }

    /// Whether it has to wait after failures. Says so.
    pub(super) fn backs_off(&mut self, address: Address, wanted: Wanted<'_>) -> bool {
        let Some(failures) = &wanted.record.failures else { return false };
        // No apply notes a longer wait: whoever writes state otherwise holds no certificate back for years.
        let longest = failures.last.checked_add(LONGEST_WAIT).unwrap_or(failures.last);
        let until = failures.retry_after.min(longest);
        if wanted.requested || noted_wrongly(failures.last, self.input.now) || until <= self.input.now {
            return false;
        }
        let times = if failures.count == 1 {
            "once".to_owned()
        } else {
            format!("{} times in a row", failures.count)
        };
        self.deferred.push(Deferral {
            address,
            waits_for: WaitsFor::BackOff,
            until,
            message: format!("it failed {times}: {}", failures.message),
            wanted: wanted.reason,
            cause: wanted.cause,
        });
        true
    }

    /// Whether it has to wait for a limit of the CA, or renews itself suspiciously often. Says so.
    pub(super) fn is_limited(&mut self, subject: Subject<'a>, directory: &str, wanted: Wanted<'_>) -> bool {
        let now = self.input.now;
        let names = &subject.desired.names;
        let by_itself = matches!(wanted.cause, Cause::Time | Cause::Ca) && !wanted.requested;
        let (waits_for, until, message) = if let Some(until) =
            self.ledger().exact_set(directory, names, now).filter(|_| !wanted.exempt)
        {
            (
                WaitsFor::RateLimit,
                until,
                "the CA issues 5 certificates a week for exactly these names, and they were issued"
                    .to_owned(),
            )
        } else if let Some(until) =
            self.ledger().loop_guard(directory, names, wanted.lifetime, now).and_then(|until| {
                // It bounds what a wrong window or clock costs, and must never cost the certificate itself.
                let current = wanted.record.current.as_ref();
                let until = current.map_or(until, |current| until.min(self.latest(current, subject.desired)));
                (by_itself && until > now).then_some(until)
            })
        {
            (
                WaitsFor::LoopGuard,
                until,
                "it was issued 5 times already in a short time: the CA's windows, or a clock, are wrong"
                    .to_owned(),
            )
        } else {
            for domain in self.ledger().count_new(directory, names) {
                self.warnings.push(super::change::Warning {
                    address: None,
                    message: format!(
                        "more than 50 certificates with new names under `{domain}` within a week: the CA refuses more unless it raised the limit for you"
                    ),
                    help: None,
                });
            }
            return false;
        };
        self.defer(subject, waits_for, until, message, wanted);
        true
    }

    /// When the guard holds a renewal back no longer: a sixth of the lifetime is left then, by this machine's clock and by
    /// that of the CA. One that is far ahead finds each new certificate all but expired.
    fn latest(&self, current: &Issued, desired: &DesiredCertificate) -> Timestamp {
        let lifetime = current.facts.lifetime().as_secs().max(0);
        let ahead = self.apart(&desired.issuer).unwrap_or_default().as_secs().max(0);
        at(current.facts.not_after.as_second().saturating_sub(lifetime / 6).saturating_add(ahead))
    }

    pub(super) fn defer(
        &mut self,
        subject: Subject<'_>,
        waits_for: WaitsFor,
        until: Timestamp,
        message: String,
        wanted: Wanted<'_>,
    ) {
        self.deferred.push(Deferral {
            address: subject.address(),
            waits_for,
            until,
            message,
            wanted: wanted.reason,
            cause: wanted.cause,
        });
    }
}
