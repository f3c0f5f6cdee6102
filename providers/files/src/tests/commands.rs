//! What `test` and `reload` do, and what becomes of the files when they fail.

use super::*;

/// A block whose commands write what they see into `log`, and fail while a file `broken` is there.
fn with_commands() -> Value {
    let script = |name: &str| {
        format!("echo {name} $(cat tls/shop/cert.pem 2>/dev/null | cksum) >> log; test ! -e {name}-broken")
    };
    json!({
        "directory": "tls",
        "test": ["/bin/sh", "-c", script("test")],
        "reload": ["/bin/sh", "-c", script("reload")],
        "timeout": "20s",
    })
}

fn cksum(text: &str) -> String {
    let folder = private_folder();
    fs::write(folder.path().join("f"), text).unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "cksum < f"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn leaf_sum(number: usize) -> String {
    let pem = bundle(number).chain_pem;
    let end = pem.find("-----END CERTIFICATE-----\n").unwrap() + "-----END CERTIFICATE-----\n".len();
    cksum(&pem[..end])
}

#[tokio::test]
async fn test_and_reload_run_when_the_new_files_are_in_place() {
    let bench = Bench::new(with_commands());
    bench.deployed(0).await;
    assert_eq!(read(bench.path("log")), format!("test {0}\nreload {0}\n", leaf_sum(0)));
}

#[tokio::test]
async fn a_failing_test_puts_the_old_files_back_and_reloads_nothing() {
    let bench = Bench::new(with_commands());
    let before = bench.deployed(0).await;
    fs::write(bench.path("test-broken"), "").unwrap();
    fs::write(bench.path("log"), "").unwrap();
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(1), Some(&before)).await.unwrap_err();
    assert!(error.to_string().starts_with("the previous certificate was put back: `/bin/sh -c"), "{error}");
    assert_eq!(read(bench.path("log")), format!("test {}\n", leaf_sum(1)));
    assert_eq!(bench.observe().await, Some(before));
    assert_eq!(names(bench.path("tls/.certplan/shop")).len(), 2, "one version and the lock");
}

#[tokio::test]
async fn a_failing_reload_puts_the_old_files_back_and_reloads_them() {
    let bench = Bench::new(with_commands());
    let before = bench.deployed(0).await;
    fs::write(bench.path("reload-broken"), "").unwrap();
    fs::write(bench.path("log"), "").unwrap();
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(1), Some(&before)).await.unwrap_err();
    assert!(error.to_string().contains("but the server did not take it either"), "{error}");
    let (old, new) = (leaf_sum(0), leaf_sum(1));
    assert_eq!(read(bench.path("log")), format!("test {new}\nreload {new}\nreload {old}\n"));
    assert_eq!(bench.observe().await, Some(before));
}

#[tokio::test]
async fn a_failing_first_deployment_leaves_nothing() {
    let bench = Bench::new(with_commands());
    fs::write(bench.path("test-broken"), "").unwrap();
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(0), None).await.unwrap_err();
    assert!(error.to_string().starts_with("nothing was there before"), "{error}");
    assert_eq!(bench.observe().await, None);
    assert_eq!(names(bench.path("tls")), Vec::<String>::new());
}

#[tokio::test]
async fn a_failing_test_of_what_was_in_place_takes_nothing_away() {
    let bench = Bench::new(with_commands());
    let before = bench.deployed(0).await;
    fs::write(bench.path("test-broken"), "").unwrap();
    let error = bench.target.deploy(&context(), &bench.slot(), &bundle(0), Some(&before)).await.unwrap_err();
    assert!(error.to_string().starts_with("the files were in place already and stay"), "{error}");
    assert_eq!(bench.observe().await, Some(before));
}

#[tokio::test]
async fn a_server_that_still_needs_the_files_keeps_them() {
    let bench = Bench::new(with_commands());
    let before = bench.deployed(0).await;
    fs::write(bench.path("test-broken"), "").unwrap();
    let error = bench.remove().await.unwrap_err();
    assert!(error.to_string().contains("was put back, for the server still needs it"), "{error}");
    assert_eq!(bench.observe().await, Some(before));
    // A run that died after it took the link away: the next puts it back, too.
    fs::remove_file(bench.path("tls/shop")).unwrap();
    bench.remove().await.unwrap_err();
    assert_eq!(bench.observe().await.unwrap().fingerprint, Some(bundle(0).fingerprint));
    fs::remove_file(bench.path("test-broken")).unwrap();
    bench.remove().await.unwrap();
    assert_eq!(names(bench.path("tls")), Vec::<String>::new());
}

#[tokio::test]
async fn what_somebody_left_in_a_version_is_not_put_back() {
    let bench = Bench::new(with_commands());
    bench.deployed(0).await;
    let version = fs::canonicalize(bench.path("tls/shop")).unwrap();
    fs::write(version.join("dhparam.pem"), "somebody's").unwrap();
    bench.remove().await.unwrap();
    // Removed once more, by a run that does not know that it is gone, while the server has its troubles.
    fs::write(bench.path("test-broken"), "").unwrap();
    bench.remove().await.unwrap();
    assert_eq!(names(version), ["dhparam.pem"]);
    assert!(bench.path("tls/shop").symlink_metadata().is_err(), "a link to no certificate");
}

#[tokio::test]
async fn a_rollback_reloads_what_served() {
    let bench = Bench::new(with_commands());
    let before = bench.deployed(0).await;
    let receipt = bench.target.deploy(&context(), &bench.slot(), &bundle(1), Some(&before)).await.unwrap();
    fs::write(bench.path("log"), "").unwrap();
    bench.target.rollback(&context(), &bench.slot(), &receipt).await.unwrap();
    assert_eq!(read(bench.path("log")), format!("reload {}\n", leaf_sum(0)));
    assert_eq!(bench.observe().await, Some(before));
}

/// Those who wait for a server take no thread from the one who is at it.
#[test]
fn one_reload_that_fails_holds_up_no_other_certificate() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new(json!({
            "directory": "tls",
            "reload": ["/bin/sh", "-c", "test -e once || { touch once; sleep 1; false; }"],
        }));
        let mut deployments = JoinSet::new();
        for number in 0..12 {
            let target = Arc::clone(&bench.target);
            deployments.spawn(async move {
                let slot = target.slot(&format!("c{number}"), &json!({})).unwrap();
                target.deploy(&context(), &slot, &bundle(0), None).await.is_err()
            });
        }
        let all = tokio::time::timeout(Duration::from_secs(60), deployments.join_all());
        let failed = all.await.expect("nobody waits for a thread");
        assert_eq!(failed.into_iter().filter(|failed| *failed).count(), 1);
    });
}
