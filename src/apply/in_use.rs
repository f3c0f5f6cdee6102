//! Which TXT values open operations of this run still need.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::model::Fqdn;
use crate::model::JournaledTxt;

/// Counts the operations that need a value: a CA may hand two orders the same pending authorization, and then both
/// need the same value. The last one removes it.
#[derive(Debug, Default)]
pub(super) struct InUse {
    counts: Mutex<BTreeMap<(Fqdn, String), usize>>,
    done: Mutex<BTreeSet<String>>,
}

impl InUse {
    /// Notes that an operation needs these values.
    pub(super) fn take(&self, values: &[JournaledTxt]) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for value in values {
            *counts.entry((value.name.clone(), value.value.clone())).or_insert(0) += 1;
        }
    }

    /// Notes that an operation no longer needs a value, and returns whether nobody does.
    pub(super) fn release(&self, value: &JournaledTxt) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (value.name.clone(), value.value.clone());
        match counts.get_mut(&key) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                counts.remove(&key);
                true
            }
        }
    }

    /// Notes that an operation needs no value any more that its journal listed when the run began.
    pub(super) fn done(&self, operation: &str) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(operation.to_owned());
    }

    /// Whether an operation needs none of the values that its journal listed when the run began.
    pub(super) fn is_done(&self, operation: &str) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TxtState;

    #[test]
    fn the_last_operation_removes_a_shared_value() {
        let value = JournaledTxt {
            provider: "dns".parse().unwrap(),
            zone: certplan_provider::Zone { id: "z".to_owned(), name: "example.com".parse().unwrap() },
            name: "_acme-challenge.example.com".parse().unwrap(),
            value: "v".to_owned(),
            state: TxtState::Intent,
        };
        let in_use = InUse::default();
        in_use.take(std::slice::from_ref(&value));
        in_use.take(std::slice::from_ref(&value));
        assert!(!in_use.release(&value));
        assert!(in_use.release(&value));
        assert!(in_use.release(&value), "a value of an earlier run is nobody else's");
    }
}
