use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long a failure is believed. Long enough that ten thousand who ask one after the other hear it together, short
/// enough that a service that is back is used in the same run.
const BELIEVED: Duration = Duration::from_secs(10);

/// How many questions have to fail in a row before the next ones are not asked: so many that a few that are in trouble
/// themselves do not speak for the others.
const IN_A_ROW: u32 = 16;

/// A question that is asked once, however many wait for its answer.
///
/// The answer is kept. A failure is kept for ten seconds: all who wait for it get it, where with a bare [`OnceCell`]
/// each of them would ask again in its turn, and a service that takes a minute to fail would hold up a thousand for a
/// day.
pub struct Once<T, E> {
    answer: OnceCell<T>,
    failure: Mutex<Option<(Instant, E)>>,
}

impl<T, E: Clone> Once<T, E> {
    /// A question that was not asked yet.
    pub const fn new() -> Self {
        Self { answer: OnceCell::const_new(), failure: Mutex::new(None) }
    }

    /// Returns the answer, or the failure of the last ten seconds; asks when there is neither.
    ///
    /// # Errors
    /// What `ask` failed with.
    pub async fn get_or_try_init<F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl FnOnce() -> F,
    ) -> Result<&T, E> {
        let ask = || async {
            if let Some(failure) = believed(&self.failure) {
                return Err(failure);
            }
            let answer = ask().await;
            if let Err(error) = &answer {
                *lock(&self.failure) = Some((Instant::now(), error.clone()));
            }
            answer
        };
        self.answer.get_or_try_init(ask).await
    }

    /// The answer, if there is one; asks nobody.
    pub fn get(&self) -> Option<&T> {
        self.answer.get()
    }

    /// Lets the next who asks ask again, after a failure; an answer stays.
    pub fn forget_failure(&self) {
        *lock(&self.failure) = None;
    }
}

impl<T, E: Clone> Default for Once<T, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug, E> fmt::Debug for Once<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.answer.get()).finish()
    }
}

/// The patience with somebody who is asked many questions: sixteen failures in a row, and for ten seconds nobody asks.
pub struct Patience<E> {
    in_a_row: Mutex<u32>,
    failure: Mutex<Option<(Instant, E)>>,
}

impl<E: Clone> Patience<E> {
    /// Patience that was not tried yet.
    pub const fn new() -> Self {
        Self { in_a_row: Mutex::new(0), failure: Mutex::new(None) }
    }

    /// Asks, unless the last sixteen who asked failed and the last of them did within ten seconds: then that failure is
    /// returned. `counts` says which failures are of him who is asked and not of the question; others are as good as
    /// answers.
    ///
    /// # Errors
    /// What `question` failed with, or one before it.
    pub async fn ask<T>(
        &self,
        counts: impl Fn(&E) -> bool,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if *lock(&self.in_a_row) >= IN_A_ROW
            && let Some(failure) = believed(&self.failure)
        {
            return Err(failure);
        }
        let answer = question.await;
        match &answer {
            Err(error) if counts(error) => {
                let mut in_a_row = lock(&self.in_a_row);
                *in_a_row = in_a_row.saturating_add(1);
                *lock(&self.failure) = Some((Instant::now(), error.clone()));
            }
            _ => *lock(&self.in_a_row) = 0,
        }
        answer
    }
}

impl<E: Clone> Default for Patience<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Patience<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").finish_non_exhaustive()
    }
}

fn believed<E: Clone>(failure: &Mutex<Option<(Instant, E)>>) -> Option<E> {
    let failure = lock(failure);
    let (at, error) = failure.as_ref()?;
    (at.elapsed() < BELIEVED).then(|| error.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    use futures::future;
    use tokio::time;

    use super::*;

    /// Something that takes a minute to fail, or answers with how often it was asked.
    #[derive(Default)]
    struct Service {
        asked: AtomicU32,
        up: std::sync::atomic::AtomicBool,
    }

    impl Service {
        async fn ask(&self) -> Result<u32, String> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            if self.up.load(Ordering::Relaxed) {
                return Ok(asked);
            }
            time::sleep(Duration::from_secs(60)).await;
            Err(format!("failure {asked}"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_wait_hear_of_a_failure_together() {
        let (service, once) = (Service::default(), Once::new());
        let start = Instant::now();
        let waiting = (0..1_000).map(|_| once.get_or_try_init(|| service.ask()));
        let heard = future::join_all(waiting).await;
        assert!(heard.iter().all(|heard| *heard == Err("failure 1".to_owned())));
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_believed_for_a_while_and_an_answer_for_good() {
        let (service, once) = (Service::default(), Once::new());
        assert!(once.get_or_try_init(|| service.ask()).await.is_err());
        service.up.store(true, Ordering::Relaxed);
        time::advance(BELIEVED - Duration::from_millis(1)).await;
        assert_eq!(once.get_or_try_init(|| service.ask()).await, Err("failure 1".to_owned()));
        time::advance(Duration::from_millis(1)).await;
        assert_eq!(once.get_or_try_init(|| service.ask()).await, Ok(&2));
        service.up.store(false, Ordering::Relaxed);
        once.forget_failure();
        assert_eq!(once.get_or_try_init(|| service.ask()).await, Ok(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_was_given_up_is_asked_by_the_next() {
        let (service, once) = (Service::default(), Once::new());
        assert!(time::timeout(Duration::from_secs(1), once.get_or_try_init(|| service.ask())).await.is_err());
        service.up.store(true, Ordering::Relaxed);
        assert_eq!(once.get_or_try_init(|| service.ask()).await, Ok(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_many_failures_in_a_row_and_comes_back() {
        let (service, patience) = (Service::default(), Patience::new());
        let ask = || patience.ask(|_| true, service.ask());
        let fail = async || {
            service.up.store(false, Ordering::Relaxed);
            for _ in 1..IN_A_ROW {
                assert!(ask().await.is_err());
            }
        };
        fail().await;
        service.up.store(true, Ordering::Relaxed);
        assert_eq!(ask().await, Ok(IN_A_ROW), "one less is too few");
        fail().await;
        let last = format!("failure {}", 2 * IN_A_ROW);
        assert_eq!(ask().await, Err(last.clone()), "an answer begins the count again");
        let start = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(ask().await, Err(last.clone()));
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        service.up.store(true, Ordering::Relaxed);
        assert_eq!(ask().await, Err(last));
        time::advance(BELIEVED).await;
        assert_eq!(ask().await, Ok(2 * IN_A_ROW + 1));
        assert_eq!(ask().await, Ok(2 * IN_A_ROW + 2));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_not_tried_by_questions_that_are_wrong_themselves() {
        let (service, patience) = (Service::default(), Patience::new());
        for asked in 1..=2 * IN_A_ROW {
            assert_eq!(patience.ask(|_| false, service.ask()).await, Err(format!("failure {asked}")));
        }
    }
}
