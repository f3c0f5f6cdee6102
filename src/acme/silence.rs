//! What happens when a CA falls silent in the middle of a run.

use std::future::Future;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use certplan_http::HttpError;
use tokio_util::sync::CancellationToken;

/// From how many failures in a row on a CA counts as silent: one request that fails four times is not enough, nor are three.
const MANY: u32 = 16;

/// How long a CA that was given up is believed to be gone: then one request tries again.
const BELIEVED: Duration = Duration::from_secs(60);

/// How long one who asks in vain lets the next wait, from its beginning on.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets a thousand certificates wait for a silent CA together, and give it up together. Alone, each would find out by its own
/// timeouts, a few at a time: hours for a fleet, while a CA that is away for half a minute would fail whoever asked then.
#[derive(Debug)]
pub(super) struct Silence {
    /// How long it is waited for, from the first failure on.
    patience: Duration,
    state: Mutex<State>,
    /// While it is silent one asks at a time, and the others wait for what becomes of that.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// The first failure of the row.
    since: Option<Instant>,
    last: Option<(Instant, HttpError)>,
}

impl Silence {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, state: Mutex::default(), turn: tokio::sync::Mutex::new(()) }
    }

    /// Asks; when the CA is silent, waits until it answers somebody, or is given up.
    ///
    /// # Errors
    /// What `question` fails with; of a question that was not asked [`HttpError::Connect`], or [`HttpError::Cancelled`] when
    /// the run ended while it waited.
    pub(super) async fn ask<T>(
        &self,
        cancel: &CancellationToken,
        target: impl FnOnce() -> String,
        question: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        let turn = if self.is_silent() {
            let turn = tokio::select! {
                turn = self.turn.lock() => turn,
                () = cancel.cancelled() => return Err(HttpError::Cancelled { target: target() }),
            };
            if let Some(failure) = self.given_up() {
                let reason = format!("its server has answered nobody for a while, last with: {failure}");
                return Err(HttpError::Connect { target: target(), reason });
            }
            self.is_silent().then_some(turn)
        } else {
            None
        };
        let begun = Instant::now();
        let answer = question.await;
        self.note(answer.as_ref().err());
        if turn.is_some() && answer.as_ref().is_err_and(HttpError::is_transient) {
            // A server that refuses does so at once: those who wait are to wait for it, and not to fail one by one.
            tokio::select! {
                () = tokio::time::sleep(PAUSE.saturating_sub(begun.elapsed())) => {}
                () = cancel.cancelled() => {}
            }
        }
        answer
    }

    /// Asks anew from now on, as if nothing had failed.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
    }

    fn note(&self, failure: Option<&HttpError>) {
        let mut state = self.state();
        match failure.filter(|failure| failure.is_transient()) {
            Some(failure) => {
                let now = Instant::now();
                state.in_a_row = state.in_a_row.saturating_add(1);
                state.since = state.since.or(Some(now));
                state.last = Some((now, failure.clone()));
            }
            None => *state = State::default(),
        }
    }

    fn is_silent(&self) -> bool {
        self.state().in_a_row >= MANY
    }

    fn given_up(&self) -> Option<HttpError> {
        let state = self.state();
        let (at, failure) = state.last.as_ref()?;
        let long = state.since.is_some_and(|since| since.elapsed() >= self.patience);
        (state.in_a_row >= MANY && long && at.elapsed() < BELIEVED).then(|| failure.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    fn failure() -> HttpError {
        HttpError::Timeout { target: "`POST https://ca.example/`".to_owned(), after: Duration::from_secs(30) }
    }

    async fn fail(silence: &Silence, times: u32) {
        for _ in 0..times {
            assert!(
                silence
                    .ask(&CancellationToken::new(), String::new, ready(Err::<(), _>(failure())))
                    .await
                    .is_err()
            );
        }
    }

    /// Whether the next question is asked.
    async fn is_asked(silence: &Silence) -> bool {
        let mut asked = false;
        let answer = silence
            .ask(&CancellationToken::new(), || "`GET https://ca.example/`".to_owned(), async {
                asked = true;
                Err::<(), _>(failure())
            })
            .await;
        let error = answer.expect_err("it fails either way");
        assert_eq!(error.nothing_sent(), !asked, "{error}");
        asked
    }

    #[tokio::test]
    async fn a_ca_is_given_up_after_many_failures_and_a_while() {
        let silence = Silence::new(Duration::ZERO);
        fail(&silence, MANY - 1).await;
        assert!(is_asked(&silence).await);
        assert!(!is_asked(&silence).await, "that was the last that was asked");
        silence.forget();
        assert!(is_asked(&silence).await);

        let patient = Silence::new(Duration::from_secs(3600));
        fail(&patient, MANY).await;
        assert!(is_asked(&patient).await, "there is time yet");
    }

    #[tokio::test]
    async fn an_answer_of_any_kind_ends_the_row() {
        let silence = Silence::new(Duration::ZERO);
        let refused = HttpError::Tls { target: String::new(), reason: "expired".to_owned() };
        for answer in [Ok(()), Err(refused)] {
            fail(&silence, MANY - 1).await;
            let _ = silence.ask(&CancellationToken::new(), String::new, ready(answer)).await;
            fail(&silence, MANY - 1).await;
            assert!(!silence.is_silent());
            silence.forget();
        }
    }
}
