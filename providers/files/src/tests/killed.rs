//! Runs that are killed at any step.

use super::*;

/// The steps of a deployment of `number` over what is there.
fn deploy_steps(store: &Store, number: usize) -> Vec<Step> {
    let contents = Contents::new(&bundle(number)).unwrap();
    let version = store.next_version(&bundle(number).fingerprint.short()).unwrap();
    let previous = store.versions().unwrap().pop();
    let files = store.place.files().into_iter().map(|file| (file, contents.of(file))).collect();
    let write = store.write(&version, files, Owners::default(), MODIFIED);
    [write, store.switch(Pending { version, previous })].concat()
}

fn store(bench: &Bench) -> Store {
    Store::open(Place::from_slot(&bench.slot()).unwrap(), WAIT).unwrap().unwrap()
}

#[tokio::test]
async fn a_deployment_killed_at_any_step_is_finished_by_the_same_call() {
    let mut steps = usize::MAX;
    let mut killed = 0;
    while killed <= steps {
        let bench = Bench::new(json!({ "directory": "tls", "formats": ["pem", "combined"] }));
        let before = bench.deployed(0).await;
        {
            let store = store(&bench);
            let list = deploy_steps(&store, 1);
            steps = list.len();
            store.run(&list[..killed]).unwrap();
        }
        let seen = bench.observe().await.unwrap();
        assert_eq!(seen.deviations, Vec::<String>::new(), "killed after {killed}");
        let served = seen.fingerprint.unwrap();
        assert!([bundle(0).fingerprint, bundle(1).fingerprint].contains(&served), "killed after {killed}");
        let receipt =
            bench.target.deploy(&context(), &bench.slot(), &bundle(1), Some(&before)).await.unwrap();
        assert_eq!(bench.observe().await.unwrap().fingerprint, Some(bundle(1).fingerprint));
        if killed % 2 == 0 {
            bench.target.rollback(&context(), &bench.slot(), &receipt).await.unwrap();
            assert_eq!(bench.observe().await, Some(before), "killed after {killed}");
        } else {
            bench.target.commit(&context(), &bench.slot(), &receipt).await.unwrap();
            assert_eq!(bench.observe().await.unwrap().fingerprint, Some(bundle(1).fingerprint));
        }
        assert_eq!(names(bench.path("tls/.certplan/shop")).len(), 2, "one version and the lock: {killed}");
        killed += 1;
    }
    assert!(steps > 20, "the list of steps is fine-grained: {steps}");
}

#[tokio::test]
async fn a_first_deployment_killed_at_any_step_is_finished_or_taken_back() {
    let mut steps = usize::MAX;
    let mut killed = 0;
    while killed <= steps {
        let bench = Bench::new(json!({ "directory": "tls" }));
        {
            let store = Store::create(Place::from_slot(&bench.slot()).unwrap(), WAIT).unwrap();
            let list = deploy_steps(&store, 0);
            steps = list.len();
            store.run(&list[..killed]).unwrap();
        }
        let receipt = bench.target.deploy(&context(), &bench.slot(), &bundle(0), None).await.unwrap();
        assert_eq!(bench.deviations().await, Vec::<String>::new());
        if killed % 2 == 0 {
            bench.target.rollback(&context(), &bench.slot(), &receipt).await.unwrap();
        } else {
            bench.remove().await.unwrap();
        }
        assert_eq!(names(bench.path("tls")), Vec::<String>::new(), "killed after {killed}");
        killed += 1;
    }
}

#[tokio::test]
async fn commit_rollback_and_remove_killed_at_any_step_are_finished_by_the_same_call() {
    for what in ["commit", "rollback", "remove"] {
        let mut steps = usize::MAX;
        let mut killed = 0;
        while killed <= steps {
            let bench = Bench::new(json!({ "directory": "tls" }));
            let before = bench.deployed(0).await;
            let slot = bench.slot();
            let receipt = bench.target.deploy(&context(), &slot, &bundle(1), Some(&before)).await.unwrap();
            let after = bench.observe().await.unwrap();
            {
                let store = store(&bench);
                let (old, new) = (before.version.clone().unwrap(), after.version.clone().unwrap());
                let list = match what {
                    "commit" => store.keep_only(&new).unwrap(),
                    "rollback" => {
                        [store.swap_to(Some(&old)), store.clear(&new).unwrap(), vec![Step::RemovePending]]
                            .concat()
                    }
                    _ => {
                        [store.swap_to(None), store.clear(&old).unwrap(), store.clear(&new).unwrap()].concat()
                    }
                };
                steps = list.len();
                store.run(&list[..killed]).unwrap();
            }
            match what {
                "commit" => {
                    bench.target.commit(&context(), &slot, &receipt).await.unwrap();
                    assert_eq!(bench.observe().await, Some(after));
                }
                "rollback" => {
                    bench.target.rollback(&context(), &slot, &receipt).await.unwrap();
                    assert_eq!(bench.observe().await, Some(before));
                }
                _ => {
                    bench.remove().await.unwrap();
                    assert_eq!(names(bench.path("tls")), Vec::<String>::new(), "killed after {killed}");
                }
            }
            if what != "remove" {
                assert_eq!(names(bench.path("tls/.certplan/shop")).len(), 2, "{what} killed after {killed}");
            }
            killed += 1;
        }
        assert!(steps > 4, "{what} has {steps} steps");
    }
}
