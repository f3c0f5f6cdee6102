use std::time::Duration;

use certplan::sandbox::Endpoint;
use certplan::sandbox::FaultRule;
use certplan::sandbox::HttpFault;

use crate::project::Run;
use crate::world::World;
use crate::world::check;
use crate::world::inside::Inside;
use crate::world::inside::address;
use crate::world::inside::record;

/// A fault at every new order.
fn at_new_order(fault: HttpFault) -> FaultRule {
    let mut rule = FaultRule::new(fault, 100);
    rule.endpoints = [Endpoint::NewOrder].into();
    rule
}

fn quiet_stdout(run: Run) -> Run {
    Run { stdout: String::new(), ..run }
}

#[test]
fn with_the_ca_down_and_nothing_due_everything_is_in_order() {
    let world = World::with_shop();
    world.faults(|faults| faults.http = vec![FaultRule::new(HttpFault::DropBeforeCommit, 100)]);
    let plan = world.plan(&["--detailed-exitcode"], 0);
    assert_eq!(plan["errored"], false, "{plan:#}");
    assert_eq!(plan["resource_changes"].as_array().map(Vec::len), Some(0), "{plan:#}");
    let errors = plan["diagnostics"].as_array().expect("a list");
    assert!(errors.iter().all(|diagnostic| diagnostic["severity"] == "warning"), "{plan:#}");
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!(run.stderr, "");
}

#[test]
fn with_the_ca_down_what_is_due_fails_alone_and_says_so() {
    let world = World::with_shop();
    let effects = world.effects();
    world.faults(|faults| faults.http = vec![FaultRule::new(HttpFault::DropBeforeCommit, 100)]);
    let run = world.project.certplan(&["renew", "shop", "--auto-approve"]).expect(3);
    assert!(run.stderr.contains("certificate/shop: error: "), "{run}");
    assert_eq!(world.effects(), effects);
    // The old certificate goes on serving, and the next run with a CA goes on.
    assert!(world.project.path().join("out").exists());
    world.faults(|faults| faults.http.clear());
    let _ = world.project.certplan(&["renew", "shop", "--auto-approve"]);
    assert_eq!(world.txt(), []);
}

#[test]
fn a_rate_limit_defers_and_is_remembered() {
    let world = World::with_shop();
    world.configure(&[
        ("blog", "names: [blog.example.test]"),
        ("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]"),
    ]);
    world.faults(|faults| {
        faults.retry_after = Some(Duration::from_secs(3_600));
        faults.http = vec![at_new_order(HttpFault::RateLimited)];
    });
    let orders = world.orders();
    let run = world.project.certplan(&["apply", "--auto-approve", "--detailed-exitcode"]);
    assert_eq!(run.code, Some(6), "{run}");
    check!(quiet_stdout(run), @"
    ------- stderr -------
    certificate/blog: starting
    certificate/blog: lease taken
    certificate/blog: key sealed
    certificate/blog: error: the CA's rate limit is reached (it asks to wait 60 min): too many requests, as the sandbox was told to say (rateLimited)
    Apply ended: 1 has to wait.
    [exit code: 6]
    ");
    assert_eq!((world.orders(), world.txt()), (orders, Vec::new()));

    let failures = &world.project.record("default", "blog")["content"]["failures"];
    assert_eq!(failures["count"], 1, "{failures:#}");
    // The CA is not asked again before its time, although it would answer now.
    world.faults(|faults| faults.http.clear());
    let plan = world.plan(&["--detailed-exitcode"], 6);
    assert_eq!(plan["resource_changes"].as_array().map(Vec::len), Some(0), "{plan:#}");
    assert_eq!(plan["deferred"][0]["address"], "certificate/blog", "{plan:#}");
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(run.stdout.contains("certificate/blog"), "what waits is shown: {run}");
    let _ = world.project.certplan(&["apply", "--auto-approve", "--detailed-exitcode"]).expect(6);
    assert_eq!(world.orders(), orders);
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    Nothing to do now. The next renewal is that of certificate/shop, in [some] days ([time]).

    Deferred:
      certificate/blog can go on in [some] minutes ([time]): it failed once: the CA's rate limit is reached (it asks to wait 60 min): too many requests, as the sandbox was told to say (rateLimited)
    [exit code: 0]
    ");
}

#[test]
fn a_page_of_a_load_balancer_is_understood() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.faults(|faults| {
        faults.retry_after = Some(Duration::from_secs(1_800));
        faults.http = vec![at_new_order(HttpFault::Unavailable)];
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    assert!(run.stderr.lines().all(|line| line.chars().count() < 500), "a page is quoted in short: {run}");
    check!(quiet_stdout(run), @"
    ------- stderr -------
    account/ca: account ready
    certificate/shop: starting
    certificate/shop: lease taken
    certificate/shop: key sealed
    certificate/shop: error: the CA is not available (it asks to wait 30 min): `POST https://[address]/new-order` answered 503: <html><head><title>503 Service Temporarily Unavailable</title></head> <body><center><h1>503 Service Temporarily Unavailable</h1></center></body></html>
    Apply ended: 1 failed.
    [exit code: 3]
    ");
    assert_eq!((world.orders(), world.txt()), (0, Vec::new()));
}

#[test]
fn bad_nonces_and_slow_validation_are_borne() {
    let world = World::new();
    let names: Vec<(String, String)> =
        (0..8).map(|n| (format!("c{n}"), format!("names: [c{n}.example.test]"))).collect();
    let blocks: Vec<(&str, &str)> =
        names.iter().map(|(name, block)| (name.as_str(), block.as_str())).collect();
    world.configure(&blocks);
    world.faults(|faults| {
        faults.validation_delay = Duration::from_secs(2);
        faults.processing_delay = Duration::from_secs(1);
        faults.http = vec![FaultRule::new(HttpFault::BadNonce, 30)];
    });
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert!(run.stderr.contains("8 certificates are as they should be"), "{run}");
    assert_eq!((world.orders(), world.issued(), world.txt()), (8, 8, Vec::new()));
}

#[test]
fn of_fifty_certificates_the_one_that_fails_validation_stops_no_other() {
    let world = World::new();
    let names: Vec<(String, String)> =
        (0..50).map(|n| (format!("c{n}"), format!("names: [c{n}.example.test]"))).collect();
    let blocks: Vec<(&str, &str)> =
        names.iter().map(|(name, block)| (name.as_str(), block.as_str())).collect();
    // Certplan waits instead of looking, so that the CA is the one that misses the record.
    let config = world.config(&blocks);
    let looking = format!("propagation: {{ resolvers: [\"{}\"] }}", world.sandbox.dns_address());
    assert!(config.contains(&looking));
    world.project.write("certplan.yaml", &config.replace(&looking, "propagation: { wait: 2s }"));
    let (mut child, events) = world.project.apply_events(&[]);
    let mut failed = Vec::new();
    let sandbox = &world.sandbox;
    let done = std::sync::atomic::AtomicBool::new(false);
    let done = &done;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Somebody else's cleaning job removes one record as soon as it is there.
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for record in sandbox.records() {
                    if record.name == "_acme-challenge.c7.example.test" {
                        sandbox.remove_record(&record).expect("a zone of the sandbox");
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        for line in events {
            let line = line.expect("a line");
            if line.contains("apply_errored") {
                failed.push(line);
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(child.wait().expect("it ends").code(), Some(3), "{failed:?}");
    assert_eq!(world.issued(), 49);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("certificate/c7") && failed[0].contains("could not validate"), "{failed:?}");
    assert_eq!(world.txt(), []);
    // It backs off: the next run does not try at once.
    let plan = world.plan(&["--detailed-exitcode"], 6);
    assert_eq!(plan["deferred"][0]["address"], "certificate/c7", "{plan:#}");
}

#[test]
fn without_an_account_no_certificate_is_begun_and_none_waits_for_what_it_did_not_do() {
    let world = World::new();
    world.configure(&[
        ("a", "names: [a.example.test]"),
        ("b", "names: [b.example.test]"),
        ("c", "names: [c.example.test]"),
    ]);
    let mut rule = FaultRule::new(HttpFault::ServerError, 100);
    rule.endpoints = [Endpoint::NewAccount].into();
    world.faults(|faults| faults.http = vec![rule]);
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert!(run.stderr.contains("certificate/c: error: there is no account at its CA yet"), "{run}");
    assert!(!world.object("a").exists(), "{run}");
    world.faults(|faults| faults.http.clear());
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!((world.accounts(), world.issued()), (1, 3));
}

/// The CA refused a name and does not say so at the order, or takes its time with the other names: the run tells at once
/// what it was told.
#[test]
fn a_refused_name_is_told_without_waiting_for_the_order_or_for_others() {
    for undecided in [true, false] {
        let world = World::new();
        let config = world.config(&[("shop", "names: [good.example.test, bad.example.test]")]);
        let looking = format!("propagation: {{ resolvers: [\"{}\"] }}", world.sandbox.dns_address());
        world.project.write("certplan.yaml", &config.replace(&looking, "propagation: { wait: 1s }"));
        let mut inside = Inside::new(&world);
        inside.options.ca_patience = Duration::from_secs(600);
        world.faults(|faults| faults.undecided_orders = undecided);
        // Somebody else's cleaning job removes one value as soon as it is there.
        let (sandbox, done) = (&world.sandbox, &std::sync::atomic::AtomicBool::new(false));
        let outcome = std::thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for record in sandbox.records() {
                        if record.name == "_acme-challenge.bad.example.test" {
                            let _ = sandbox.remove_record(&record);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside.run(&world)));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome
        });
        let outcome = outcome.unwrap_or_else(|_| panic!("{undecided}: the run did not end"));
        let error = outcome.failed[&address("shop")].to_string();
        assert!(error.contains("could not validate `bad.example.test`"), "{undecided}: {error}");
        let record = record(&world, "shop");
        assert!(record.operation.is_none() && record.failures.is_some(), "{undecided}: {record:?}");
        assert_eq!((world.issued(), world.txt()), (0, Vec::new()));
    }
}

#[test]
fn a_clock_that_is_not_that_of_the_ca_is_warned_of() {
    let world = World::with_shop();
    // Now state has the CA's window as well.
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    let plan = |offset: &str, arguments: &[&str]| {
        let arguments: Vec<&str> = [&["plan", "--detailed-exitcode"], arguments].concat();
        world.project.certplan_at(offset, &arguments)
    };
    // A renewal that is due by a clock that is ahead cannot be planned further: TSIG needs the time as well.
    for (offset, told, code) in [("+70d", "70 days ahead of", 1), ("-3d", "3 days behind", 0)] {
        let Some(run) = plan(offset, &[]) else { return };
        let told = format!("account/ca: this machine's clock is {told} that of the CA");
        assert!(run.to_string().contains(&told), "{run}");
        assert_eq!(run.code, Some(code), "{run}");
    }
    // Without asking, what is in state tells.
    let behind = plan("-3d", &["--refresh=false"]).unwrap();
    assert!(behind.to_string().contains("certificate/shop begins to be valid on"), "{behind}");
    assert_eq!(behind.code, Some(1), "{behind}");
}
