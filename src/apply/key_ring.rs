//! The private keys of the operations of this run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

use zeroize::Zeroizing;

use crate::model::Fingerprint;

/// Keys that this run has made, by public key, until their operation closes: nobody has to open what is sealed for a
/// deployment in the same run.
#[derive(Default)]
pub(super) struct KeyRing {
    keys: Mutex<BTreeMap<Fingerprint, Zeroizing<Vec<u8>>>>,
}

impl KeyRing {
    /// Keeps a key as PKCS#8.
    pub(super) fn keep(&self, spki: Fingerprint, pkcs8: Zeroizing<Vec<u8>>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(spki, pkcs8);
    }

    /// The key, if this run made it.
    pub(super) fn get(&self, spki: Fingerprint) -> Option<Zeroizing<Vec<u8>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&spki).cloned()
    }

    /// Wipes a key.
    pub(super) fn forget(&self, spki: Fingerprint) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&spki);
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing(..)")
    }
}
