//! Whose keys are open to whom.

use super::change::Warning;
use super::planner::Planner;

impl Planner<'_> {
    /// Warns of keys from before `keys:` was set, which whoever applies can open until they are renewed.
    pub(super) fn summarise_custody(&mut self) {
        let Some(encryption) = &self.desired.encryption else { return };
        let applies_only = |recipient: &String| {
            encryption.recipients.contains(recipient) && !encryption.keys.contains(recipient)
        };
        if encryption.keys.is_empty() {
            return;
        }
        let is_open = |name| {
            let record = self.prior(name).0.map(|prior| &prior.record);
            let issued =
                record.into_iter().flat_map(|record| record.current.iter().chain(record.previous.as_deref()));
            issued.flat_map(|issued| &issued.key.recipients).any(applies_only)
        };
        let mut open = self.desired.certificates.keys().filter(|name| is_open(name));
        let Some(first) = open.next() else { return };
        let others = match open.count() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        self.warnings.push(Warning {
            address: None,
            message: format!(
                "a private key of certificate/{first}{others} is from before `keys:` and can be opened by who applies"
            ),
            help: Some("a renewal seals to `keys:`; `certplan renew ADDRESS` where that is not to wait".to_owned()),
        });
    }
}
