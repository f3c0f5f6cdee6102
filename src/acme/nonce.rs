use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// Servers forget nonces: older ones would only cost a refused request each.
const LONGEST_AGE: Duration = Duration::from_secs(180);
const MOST: usize = 128;

/// The nonces of every answer, for the requests to come: a request without one in stock costs a round trip more
/// ([RFC 8555, section 6.5](https://www.rfc-editor.org/rfc/rfc8555#section-6.5)).
#[derive(Debug, Default)]
pub(super) struct NoncePool {
    /// The newest last.
    nonces: Mutex<VecDeque<(Instant, String)>>,
}

impl NoncePool {
    pub(super) fn put(&self, nonce: &str) {
        // What is no base64url would break the JSON that it goes into, and is no nonce.
        if nonce.is_empty()
            || nonce.len() > 500
            || !nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return;
        }
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.len() == MOST {
            nonces.pop_front();
        }
        nonces.push_back((Instant::now(), nonce.to_owned()));
    }

    /// The newest nonce: the one that the server is surest to remember.
    pub(super) fn take(&self) -> Option<String> {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        match nonces.pop_back() {
            Some((got, nonce)) if got.elapsed() < LONGEST_AGE => Some(nonce),
            _ => {
                nonces.clear();
                None
            }
        }
    }

    /// Forgets all of them, as after a restart of the server, which makes them worthless.
    pub(super) fn clear(&self) {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_nonce_comes_first_and_the_pool_is_bounded() {
        let pool = NoncePool::default();
        for number in 0..=MOST {
            pool.put(&format!("n{number}"));
        }
        assert_eq!(pool.take().as_deref(), Some("n128"));
        let rest = std::iter::from_fn(|| pool.take()).collect::<Vec<_>>();
        assert_eq!((rest.len(), rest.last().map(String::as_str)), (MOST - 1, Some("n1")));
    }

    #[test]
    fn what_is_no_nonce_is_not_kept() {
        let pool = NoncePool::default();
        for bad in ["", "a b", "a\"b", "a\nb", &"a".repeat(501)] {
            pool.put(bad);
        }
        assert_eq!(pool.take(), None);
    }
}
