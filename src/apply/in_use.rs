//! Which TXT values open operations of this run still need.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::model::Fqdn;
use crate::model::JournaledTxt;
use crate::model::Name;

/// A value at its place: provider, zone id, name, value.
type Value = (Name, String, Fqdn, String);

/// Knows which operations need a value: a CA may hand two orders the same pending authorization, and then both
/// need the same value. The last one removes it.
#[derive(Debug, Default)]
pub(super) struct InUse {
    holders: Mutex<BTreeMap<Value, BTreeSet<String>>>,
    done: Mutex<BTreeSet<String>>,
}

/// What giving a value back means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Released {
    /// Nobody needs it any more: it is to be removed.
    Last,
    /// Another operation needs it, and this one gave it back before.
    NotHeld,
    /// Another operation needs it.
    Shared,
}

impl InUse {
    /// Notes that an operation needs these values.
    pub(super) fn take(&self, operation: &str, values: &[JournaledTxt]) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        for value in values {
            holders.entry(key(value)).or_default().insert(operation.to_owned());
        }
    }

    /// Notes that an operation no longer needs a value; again, when a removal is tried again.
    pub(super) fn release(&self, operation: &str, value: &JournaledTxt) -> Released {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(value);
        let Some(needed_by) = holders.get_mut(&key) else { return Released::Last };
        let held = needed_by.remove(operation);
        if needed_by.is_empty() {
            holders.remove(&key);
            return Released::Last;
        }
        if held { Released::Shared } else { Released::NotHeld }
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

fn key(value: &JournaledTxt) -> Value {
    (value.provider.clone(), value.zone.id.clone(), value.name.clone(), value.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TxtState;

    fn value(provider: &str) -> JournaledTxt {
        JournaledTxt {
            provider: provider.parse().unwrap(),
            zone: certplan_provider::Zone { id: "z".to_owned(), name: "example.com".parse().unwrap() },
            name: "_acme-challenge.example.com".parse().unwrap(),
            value: "v".to_owned(),
            state: TxtState::Intent,
        }
    }

    #[test]
    fn the_last_operation_removes_a_shared_value() {
        let (in_use, value) = (InUse::default(), value("dns"));
        in_use.take("a", std::slice::from_ref(&value));
        in_use.take("b", std::slice::from_ref(&value));
        assert_eq!(in_use.release("a", &value), Released::Shared);
        assert_eq!(in_use.release("b", &value), Released::Last);
        assert_eq!(in_use.release("b", &value), Released::Last, "a value of an earlier run is nobody else's");
    }

    #[test]
    fn an_operation_that_gives_a_value_back_twice_gives_back_its_own_only() {
        let (in_use, value) = (InUse::default(), value("dns"));
        in_use.take("a", std::slice::from_ref(&value));
        in_use.take("a", std::slice::from_ref(&value));
        in_use.take("b", std::slice::from_ref(&value));
        assert_eq!(in_use.release("a", &value), Released::Shared);
        assert_eq!(in_use.release("a", &value), Released::NotHeld);
        assert_eq!(in_use.release("b", &value), Released::Last);
    }

    #[test]
    fn a_value_at_another_provider_is_another() {
        let in_use = InUse::default();
        in_use.take("a", &[value("one")]);
        in_use.take("b", &[value("two")]);
        assert_eq!(in_use.release("a", &value("one")), Released::Last);
    }
}
