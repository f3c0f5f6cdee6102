use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Mutex;

use super::super::lock;
use super::random_text;

/// How many nonces are kept: more than any client holds, and little memory.
const LIMIT: usize = 100_000;

/// The nonces that were given out and not yet used.
#[derive(Debug, Default)]
pub(super) struct Nonces(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fresh: HashSet<String>,
    order: VecDeque<String>,
}

impl Nonces {
    /// A fresh nonce.
    pub(super) fn issue(&self) -> String {
        let nonce = random_text();
        let mut inner = lock(&self.0);
        inner.fresh.insert(nonce.clone());
        inner.order.push_back(nonce.clone());
        while inner.order.len() > LIMIT {
            if let Some(oldest) = inner.order.pop_front() {
                inner.fresh.remove(&oldest);
            }
        }
        nonce
    }

    /// Uses a nonce up; whether it was good.
    pub(super) fn take(&self, nonce: &str) -> bool {
        lock(&self.0).fresh.remove(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once() {
        let nonces = Nonces::default();
        let nonce = nonces.issue();
        assert!(nonces.take(&nonce));
        assert!(!nonces.take(&nonce));
        assert!(!nonces.take("made-up"));
    }

    #[test]
    fn old_nonces_are_forgotten_so_that_memory_is_bounded() {
        let nonces = Nonces::default();
        let first = nonces.issue();
        for _ in 0..LIMIT {
            nonces.issue();
        }
        assert!(!nonces.take(&first));
        assert_eq!(lock(&nonces.0).fresh.len(), LIMIT);
    }
}
