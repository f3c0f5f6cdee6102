use std::env;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use super::*;
use crate::model::Name;
use crate::state::BootClock;
use crate::state::LocalStore;
use crate::state::testing::Fault;
use crate::state::testing::MemoryStore;
use crate::state::testing::StandingClock;
use crate::state::testing::holder;
use crate::state::testing::name;
use crate::state::testing::stranger;

const TTL: Duration = Duration::from_secs(30);
const NO_WAIT: Duration = Duration::ZERO;

/// Set for a test that runs again in a process of its own, to the folder that it works in.
const FOLDER: &str = "CERTPLAN_TEST_LEASE_FOLDER";

/// A run's leases on a store, with a clock of its own.
struct Run {
    leases: Leases,
    clock: Arc<StandingClock>,
}

fn run(store: &Arc<MemoryStore>, holder: Holder) -> Run {
    let clock = Arc::new(StandingClock::default());
    let leases =
        Leases::new(Arc::clone(store) as Arc<dyn Store>, holder, TTL, Arc::clone(&clock) as Arc<dyn Clock>);
    Run { leases, clock }
}

fn key() -> LeaseKey {
    LeaseKey::for_account(&name("le"))
}

#[tokio::test]
async fn a_lease_is_held_until_it_is_given_back_and_its_fence_grows() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, holder("run-1")), run(&store, stranger("run-2")));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    lease.check(TTL).unwrap();
    let error = two.leases.acquire(&key(), NO_WAIT).await.unwrap_err();
    assert!(
        matches!(error, LeaseError::Held { holder: Some(ref held), .. } if held.run == "run-1"),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("the account at le is being worked on by run run-1 on "),
        "{error}"
    );
    // Another lease of the same run excludes just as well.
    assert!(matches!(one.leases.acquire(&key(), NO_WAIT).await, Err(LeaseError::Held { .. })));
    assert_eq!(two.leases.holder_of(&key()).await.unwrap().unwrap().holder.unwrap().run, "run-1");
    assert_eq!(two.leases.list().await.unwrap().len(), 1);
    let fence = lease.fence();
    lease.release().await.unwrap();
    assert_eq!(two.leases.list().await.unwrap(), []);
    assert!(two.leases.acquire(&key(), NO_WAIT).await.unwrap().fence() > fence);
}

#[tokio::test]
async fn whoever_waits_gets_the_lease_when_it_is_given_back() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, holder("run-1")), run(&store, stranger("run-2")));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let waiting = tokio::spawn(async move { two.leases.acquire(&key(), TTL).await });
    tokio::task::yield_now().await;
    lease.release().await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_waits_after_the_run_is_cancelled() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, holder("run-1")), run(&store, stranger("run-2")));
    let _lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let cancel = CancellationToken::new();
    let waits = cancel.clone();
    let waiting = tokio::spawn(async move { two.leases.acquire_unless(&key(), TTL, &waits).await });
    tokio::task::yield_now().await;
    cancel.cancel();
    // The clock of these leases stands still: without the token this would wait for ever.
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    assert!(matches!(ended.unwrap(), Err(LeaseError::Held { .. })));
}

#[tokio::test]
async fn a_stranger_that_stands_still_is_taken_over_only_after_its_time_and_the_longest_request() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, stranger("run-1")), run(&store, holder("run-2")));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let stale_in = |error| match error {
        LeaseError::Held { stale_in, .. } => stale_in,
        other => panic!("{other}"),
    };
    let held = two.leases.acquire(&key(), NO_WAIT).await.unwrap_err();
    assert_eq!(stale_in(held), TTL + LONGEST_REQUEST, "counted from when it was first seen");
    two.clock.advance(TTL + LONGEST_REQUEST - Duration::from_secs(1));
    let held = two.leases.acquire(&key(), NO_WAIT).await.unwrap_err();
    assert_eq!(stale_in(held), Duration::from_secs(1));
    // A sign of life starts the time anew.
    lease.grip.write(false).await.unwrap();
    two.clock.advance(Duration::from_secs(1));
    assert_eq!(stale_in(two.leases.acquire(&key(), NO_WAIT).await.unwrap_err()), TTL + LONGEST_REQUEST);
    two.clock.advance(TTL + LONGEST_REQUEST);
    let taken = two.leases.acquire(&key(), NO_WAIT).await.unwrap();
    assert!(taken.fence() > lease.fence());

    // The first one thinks that all is well until it looks, and then starts no effect any more.
    assert!(lease.check(TTL).is_ok());
    let error = lease.grip.write(false).await.unwrap_err();
    assert!(matches!(error, LeaseError::Lost { holder: Some(ref by), .. } if by.run == "run-2"), "{error}");
    assert!(matches!(lease.check(NO_WAIT), Err(LeaseError::Lost { .. })));
    assert_eq!(lease.remaining(), Duration::ZERO);
    assert!(matches!(lease.release().await, Err(LeaseError::Lost { .. })));
    taken.check(TTL).unwrap();
    assert_eq!(two.leases.list().await.unwrap().len(), 1, "releasing a lost lease frees nobody else's");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_may_be_dead_is_waited_out_and_one_that_moves_is_not() {
    let cancel = CancellationToken::new();
    let keys: Vec<LeaseKey> =
        (0..3).map(|number| LeaseKey::for_account(&name(&format!("le-{number}")))).collect();
    for lives in [true, false] {
        let store = MemoryStore::failing([]);
        let (one, two) = (run(&store, stranger("run-1")), run(&store, holder("run-2")));
        let mut held = Vec::new();
        for key in &keys {
            held.push(one.leases.acquire(key, NO_WAIT).await.unwrap());
        }
        let mut told = 0;
        let first = two.leases.acquire_or_outwait(&keys[0], NO_WAIT, &cancel, |_| told += 1);
        let passes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if lives {
                held[0].grip.write(false).await.unwrap();
            }
            two.clock.advance(TTL + LONGEST_REQUEST);
        };
        let (first, ()) = tokio::join!(first, passes);
        assert_eq!(told, 1);
        if lives {
            assert!(matches!(first, Err(LeaseError::Held { .. })), "{first:?}");
        } else {
            first.unwrap();
        }
        // The others of that run were looked at with the first: nobody waits for them anew.
        for key in &keys[1..] {
            let begun = tokio::time::Instant::now();
            let next = two.leases.acquire_or_outwait(key, NO_WAIT, &cancel, |_| {}).await;
            assert_eq!((next.is_ok(), begun.elapsed()), (true, Duration::ZERO), "{lives}: {next:?}");
        }
    }
}

#[tokio::test]
async fn who_is_known_to_be_alive_is_not_waited_out() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, holder("run-1")), run(&store, holder("run-2")));
    let _lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let cancel = CancellationToken::new();
    let told = |error: &LeaseError| panic!("it waits: {error}");
    let refused = two.leases.acquire_or_outwait(&key(), NO_WAIT, &cancel, told).await;
    assert!(matches!(refused, Err(LeaseError::Held { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_holder_that_slept_starts_nothing_before_it_has_moved_again() {
    let store = MemoryStore::failing([]);
    let one = run(&store, holder("run-1"));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    one.clock.advance(TTL - Duration::from_secs(5));
    lease.check(Duration::from_secs(5)).unwrap();
    assert!(matches!(lease.check(Duration::from_secs(6)), Err(LeaseError::Short { .. })));
    one.clock.advance(Duration::from_secs(3_600));
    assert!(matches!(lease.check(NO_WAIT + Duration::from_secs(1)), Err(LeaseError::Short { .. })));
    lease.grip.write(false).await.unwrap();
    lease.check(TTL).unwrap();
}

#[tokio::test]
async fn a_dead_process_of_this_machine_is_taken_over_at_once() {
    let store = MemoryStore::failing([]);
    let mut child = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let dead = Holder { pid: child.id(), started: Some(1), ..holder("run-1") };
    let one = run(&store, dead);
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let two = run(&store, holder("run-2"));
    assert!(two.leases.list().await.unwrap()[0].dead);
    two.leases.acquire(&key(), NO_WAIT).await.unwrap();
    assert!(matches!(lease.grip.write(false).await, Err(LeaseError::Lost { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn lost_answers_neither_lose_a_lease_nor_give_it_twice() {
    for fault in [Fault::AnswerLost, Fault::ConflictWithItself] {
        let store = MemoryStore::failing([fault]);
        let (one, two) = (run(&store, holder("run-1")), run(&store, stranger("run-2")));
        let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
        assert!(two.leases.acquire(&key(), NO_WAIT).await.is_err());
        store.fail([fault]);
        lease.grip.write(false).await.unwrap();
        store.fail([fault]);
        lease.release().await.unwrap();
        two.leases.acquire(&key(), NO_WAIT).await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_fails_costs_time_but_not_the_lease() {
    let store = MemoryStore::failing([]);
    let one = run(&store, holder("run-1"));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    one.clock.advance(Duration::from_secs(10));
    for fault in [Fault::NotSent, Fault::Failed, Fault::Full] {
        store.fail([fault]);
        assert!(matches!(lease.grip.write(false).await, Err(LeaseError::Store(_))), "{fault:?}");
        assert_eq!(lease.remaining(), TTL - Duration::from_secs(10));
    }
    lease.grip.write(false).await.unwrap();
    assert_eq!(lease.remaining(), TTL);
}

#[tokio::test]
async fn a_beat_that_arrived_after_it_was_given_up_is_adopted() {
    let store = MemoryStore::failing([]);
    let one = run(&store, holder("run-1"));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let before = lease.grip.moving.lock().await.clone();
    lease.grip.write(false).await.unwrap();
    *lease.grip.moving.lock().await = before;
    lease.grip.write(false).await.unwrap();
    lease.release().await.unwrap();
}

#[tokio::test]
async fn a_broken_lease_is_free_and_its_holder_notices() {
    let store = MemoryStore::failing([]);
    let (one, two) = (run(&store, stranger("run-1")), run(&store, holder("run-2")));
    let lease = one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    let broken = two.leases.break_lease(key().object()).await.unwrap().unwrap();
    assert_eq!(broken.holder.unwrap().run, "run-1");
    assert_eq!(two.leases.break_lease(key().object()).await.unwrap(), None);
    assert!(matches!(lease.grip.write(false).await, Err(LeaseError::Lost { holder: None, .. })));
    assert!(lease.check(NO_WAIT).is_err());
    assert!(two.leases.acquire(&key(), NO_WAIT).await.unwrap().fence() > lease.fence());
}

#[tokio::test]
async fn a_damaged_lease_is_somebodys_until_it_has_not_moved_for_long_enough() {
    for damage in ["", "{}", "null", "{\"format\":2}", "\u{0}"] {
        let store = MemoryStore::failing([]);
        store.overwrite(key().object().as_str(), damage.as_bytes().to_vec());
        let one = run(&store, holder("run-1"));
        let error = one.leases.acquire(&key(), NO_WAIT).await.unwrap_err();
        assert!(matches!(error, LeaseError::Held { holder: None, .. }), "{error}");
        one.clock.advance(TTL + LONGEST_REQUEST);
        one.leases.acquire(&key(), NO_WAIT).await.unwrap();

        store.overwrite(key().object().as_str(), damage.as_bytes().to_vec());
        assert!(one.leases.break_lease(key().object()).await.unwrap().is_some());
        one.leases.acquire(&key(), NO_WAIT).await.unwrap();
    }
}

#[tokio::test]
async fn a_forged_time_to_live_blocks_nobody_for_ever() {
    let store = MemoryStore::failing([]);
    let forged = LeaseObject { ttl_seconds: u64::MAX, ..LeaseObject::first(&key(), &stranger("x"), TTL) };
    store.overwrite(key().object().as_str(), forged.encode());
    let one = run(&store, holder("run-1"));
    let error = one.leases.acquire(&key(), NO_WAIT).await.unwrap_err();
    let LeaseError::Held { stale_in, .. } = error else { panic!("{error}") };
    assert!(stale_in < Duration::from_secs(2 * 3_600), "{stale_in:?}");
}

#[tokio::test]
async fn the_heartbeat_moves_the_lease_by_itself_and_stops_with_it() {
    let store = MemoryStore::failing([]);
    let clock = Arc::new(BootClock);
    let ttl = Duration::from_secs(1);
    let leases = Leases::new(Arc::clone(&store) as Arc<dyn Store>, holder("run-1"), ttl, clock);
    let lease = leases.acquire(&key(), NO_WAIT).await.unwrap();
    let puts = || *store.puts.lock().unwrap();
    while puts() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(lease.remaining() > Duration::ZERO);
    let grip = Arc::downgrade(&lease.grip);
    drop(lease);
    // The task holds the grip until it has ended.
    while grip.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(leases.holder_of(&key()).await.unwrap().is_some(), "dropped is not given back");
}

#[test]
fn of_two_who_acquire_at_the_same_moment_exactly_one_does_a_hundred_times() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let key = LeaseKey::for_account(&name(&format!("le-{round}")));
        let barrier = std::sync::Barrier::new(2);
        let acquired: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = ["run-1", "run-2"]
                .into_iter()
                .map(|run| {
                    let (key, barrier, root) = (&key, &barrier, folder.path().join("state"));
                    // A runtime and a store of its own stand for a process of its own.
                    scope.spawn(move || {
                        let runtime =
                            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        runtime.block_on(async {
                            let store = Arc::new(LocalStore::new(root));
                            let leases = Leases::new(store, holder(run), TTL, Arc::new(BootClock));
                            barrier.wait();
                            match leases.acquire(key, NO_WAIT).await {
                                Ok(_) => true,
                                Err(LeaseError::Held { .. }) => false,
                                Err(error) => panic!("{error}"),
                            }
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(acquired.iter().filter(|acquired| **acquired).count(), 1, "round {round}");
    }
}

/// A holder in a process of its own, that says what it sees.
struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "state::lease::tests::child_holds_a_lease", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Self { child, lines };
        peer.expect("HELD");
        peer
    }

    fn expect(&mut self, word: &str) {
        let found = self.lines.by_ref().map_while(Result::ok).any(|line| line.contains(word));
        assert!(found, "the child ended without saying {word}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_disk(folder: &Path, run: &str) -> Leases {
    let store = Arc::new(LocalStore::new(folder.join("state")));
    Leases::new(store, holder(run), Duration::from_secs(1), Arc::new(BootClock))
        .with_longest_request(Duration::from_millis(200))
}

#[tokio::test]
#[ignore = "run by others in a process of its own"]
async fn child_holds_a_lease() {
    let leases = on_disk(Path::new(&env::var_os(FOLDER).unwrap()), "child");
    let lease = leases.acquire(&key(), NO_WAIT).await.unwrap();
    println!("HELD");
    loop {
        if let Err(error) = lease.check(Duration::from_millis(100)) {
            println!("STOPPED");
            while !matches!(lease.check(NO_WAIT), Err(LeaseError::Lost { .. })) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            println!("LOST after {error}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_killed_holder_is_taken_over_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path());
    let leases = on_disk(folder.path(), "parent");
    assert!(matches!(leases.acquire(&key(), NO_WAIT).await, Err(LeaseError::Held { .. })));
    drop(peer);
    let lease = leases.acquire(&key(), NO_WAIT).await.unwrap();
    assert_eq!(lease.fence(), 2);
}

#[tokio::test]
async fn a_stopped_holder_is_taken_over_after_its_time_and_starts_nothing_when_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path());
    let leases = on_disk(folder.path(), "parent");
    // Working, it keeps the lease for longer than the lease lives.
    assert!(matches!(leases.acquire(&key(), Duration::from_secs(2)).await, Err(LeaseError::Held { .. })));
    peer.signal(Signal::STOP);
    let lease = leases.acquire(&key(), Duration::from_secs(30)).await.unwrap();
    peer.signal(Signal::CONT);
    tokio::task::spawn_blocking(move || {
        peer.expect("STOPPED");
        peer.expect("LOST");
    })
    .await
    .unwrap();
    lease.check(Duration::from_millis(1)).unwrap();
    lease.release().await.unwrap();
}

#[test]
fn names_of_leases_are_names() {
    // The keys of leases are built without a way to fail: this is why they cannot.
    let longest = Name::new(&"a".repeat(63)).unwrap();
    for key in [LeaseKey::for_account(&longest), LeaseKey::for_zone(&longest, &"z".repeat(500))] {
        assert!(ObjectKey::new(key.object().as_str()).is_ok());
    }
}
