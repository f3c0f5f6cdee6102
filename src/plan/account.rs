use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::model::Address;
use crate::model::Name;
use crate::model::SecretRef;

use super::cause::Action;
use super::cause::Cause;
use super::cause::Reason;
use super::change::Change;
use super::change::Changed;
use super::change::Details;
use super::change::Warning;
use super::planner::Planner;
use super::step::Step;
use super::view;

impl Planner<'_> {
    /// Plans the accounts that the planned certificates need, whatever is selected: they cannot be issued without. Then
    /// what the configuration changed about accounts that are in use.
    pub(super) fn accounts(&mut self) {
        let needed = std::mem::take(&mut self.accounts);
        self.create_accounts(&needed);
        for issuer in self.desired.issuers.keys() {
            let selected = self.selects(&Address::Account(issuer.clone()), &BTreeMap::new());
            if selected && !needed.contains(issuer) {
                self.update_account(issuer);
            }
        }
    }

    fn create_accounts(&mut self, issuers: &BTreeSet<&Name>) {
        for &issuer in issuers {
            let Some(wanted) = self.desired.issuers.get(issuer).map(|issuer| issuer.acme()) else { continue };
            let prior = self.input.prior.accounts.get(issuer);
            let same = prior.filter(|account| account.record.directory == wanted.directory.as_str());
            let interrupted = same.and_then(|account| account.record.operation.as_ref());
            let details = Details {
                operation: interrupted.map(|operation| operation.id.clone()),
                operation_started: interrupted.map(|operation| operation.started),
                ..Details::default()
            };
            let reason = match interrupted {
                Some(_) => Reason::ResumeInterruptedOperation,
                None => Reason::CreateBecauseNew,
            };
            let revision = prior.map_or(0, |account| account.revision);
            self.changes.push(Change {
                action: Action::Create,
                details,
                after: view::account(wanted.directory.as_str(), &wanted.contact, wanted.account_key.as_ref()),
                steps: vec![Step::CreateAccount { issuer: issuer.clone() }],
                ..Change::new(Address::Account(issuer.clone()), Cause::Config, reason, revision)
            });
        }
    }

    /// Plans what the configuration says otherwise of an account than state remembers. An account whose creation was
    /// interrupted is left to what needs it.
    fn update_account(&mut self, issuer: &Name) {
        let Some(wanted) = self.desired.issuers.get(issuer).map(|issuer| issuer.acme()) else { return };
        let Some(prior) = self.input.prior.accounts.get(issuer) else { return };
        let record = &prior.record;
        let (other_key, other_contact) = (wanted.names_other_key(record), wanted.has_other_contact(record));
        if self.lacks_account(issuer) || !(other_key || other_contact) || !self.takes(Cause::Config, false) {
            return;
        }
        let mut details = Details::default();
        let mut reasons = Vec::new();
        if other_key {
            reasons.push(Reason::ImportBecauseAccountKeyChanged);
            let source = |key: Option<&SecretRef>| key.map(ToString::to_string);
            let (before, after) = (source(record.key_source.as_ref()), source(wanted.account_key.as_ref()));
            details.changed.insert("account_key".to_owned(), Changed { before, after });
        }
        if other_contact {
            reasons.push(Reason::UpdateBecauseContactChanged);
            let list = |contact: &[String]| (!contact.is_empty()).then(|| contact.join(", "));
            let (before, after) = (list(&record.contact), list(&wanted.contact));
            details.changed.insert("contact".to_owned(), Changed { before, after });
        }
        let reason = reasons.remove(0);
        self.changes.push(Change {
            action: if other_key { Action::Import } else { Action::Update },
            also: reasons,
            details,
            before: view::account(&record.directory, &record.contact, record.key_source.as_ref()),
            after: view::account(wanted.directory.as_str(), &wanted.contact, wanted.account_key.as_ref()),
            steps: vec![Step::UpdateAccount {
                issuer: issuer.clone(),
                contact: wanted.contact.clone(),
                account_key: wanted.account_key.clone(),
            }],
            ..Change::new(Address::Account(issuer.clone()), Cause::Config, reason, prior.revision)
        });
    }

    /// One error or warning for what many certificates have in common.
    pub(super) fn summarise(&mut self) {
        for (issuer, count) in std::mem::take(&mut self.blocked) {
            let address = Some(Address::Account(issuer.clone()));
            let terms = self.terms(issuer);
            let (message, help) = if let Some(terms) = terms {
                (
                    format!(
                        "{} for an account, which needs agreement to the terms of service {terms}",
                        waiting(count)
                    ),
                    format!("read them, and write `agree_tos: true` at the issuer `{issuer}`"),
                )
            } else {
                (
                    format!(
                        "{} for an account, which the CA gives only with an external account binding",
                        waiting(count)
                    ),
                    format!(
                        "write `eab: {{ key_id: {{ env: NAME }}, hmac_key: {{ env: NAME }} }}` at the issuer `{issuer}`"
                    ),
                )
            };
            self.fail(address, message, help);
        }
        if self.unencrypted > 0 {
            self.fail(
                None,
                format!(
                    "{} for `encryption:`: private keys are never stored in the clear",
                    waiting(self.unencrypted)
                ),
                "add to the configuration, with the recipient that `certplan init` or `age-keygen` prints:\n\
                 encryption:\n  recipients: [age1...]"
                    .to_owned(),
            );
        }
        for (issuer, (count, why)) in std::mem::take(&mut self.unreachable) {
            self.warn(
                Address::Account(issuer.clone()),
                format!(
                    "the CA's directory could not be read: {why}; {} planned without knowing its profiles and what an account needs",
                    if count == 1 { "1 certificate is".to_owned() } else { format!("{count} certificates are") },
                ),
                None,
            );
        }
        let (count, why) = self.without_ari;
        if count > 0 {
            let message = format!(
                "the CA's renewal information could not be read for {}: {why}",
                if count == 1 { "1 certificate".to_owned() } else { format!("{count} certificates") },
            );
            self.warnings.push(Warning { address: None, message, help: None });
        }
    }
}

fn waiting(count: usize) -> String {
    if count == 1 { "1 certificate waits".to_owned() } else { format!("{count} certificates wait") }
}
