use std::time::Duration;

use crate::project::Run;
use crate::world::SECRET;
use crate::world::World;
use crate::world::check;
use crate::world::no_panic;

#[test]
fn with_the_dns_server_down_nothing_is_ordered() {
    let world = World::new();
    let config = world.config(&[("shop", "names: [shop.example.test]")]);
    let config = config.replace(&world.sandbox.dns_address().to_string(), "127.0.0.1:1");
    world.project.write("certplan.yaml", &config);
    check!(world.project.certplan(&["plan"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: cannot connect to the DNS server `[address]` at [address]: Connection refused (os error 111)
    [exit code: 1]
    ");
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(1);
    assert_eq!(world.effects(), [0, 0, 0]);
}

#[test]
fn with_the_dns_server_down_and_nothing_due_all_is_well() {
    let world = World::with_shop();
    let config = world.project.read("certplan.yaml");
    world
        .project
        .write("certplan.yaml", &config.replace(&world.sandbox.dns_address().to_string(), "127.0.0.1:1"));
    let _ = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn a_wrong_tsig_secret_is_called_that() {
    let mut world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.project.set(SECRET, "d3Jvbmcgc2VjcmV0IHdyb25nIHNlY3JldCB3cm9uZyE=");
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(1);
    assert!(run.to_string().contains("BADSIG") || run.to_string().contains("TSIG"), "{run}");
    check!(run, @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the server knows the TSIG key `certplan-sandbox.`, but with another secret (BADSIG): copy the secret again from its configuration
    [exit code: 1]
    ");
    assert_eq!(world.updates(), []);
    assert_eq!(world.issued(), 0);
}

#[test]
fn a_wrong_tsig_key_name_is_called_that() {
    let world = World::new();
    let config = world.config(&[("shop", "names: [shop.example.test]")]);
    world.project.write("certplan.yaml", &config.replace("name: certplan-sandbox", "name: nobody"));
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(1);
    check!(run, @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the server does not know the TSIG key `nobody.` with the algorithm `hmac-sha256`, or does not allow it here (BADKEY): name and algorithm must be as in its configuration, and in Knot an `acl` of the zone must name the key
    [exit code: 1]
    ");
    assert_eq!(world.updates(), []);
}

#[test]
fn a_name_in_no_zone_of_ours_is_an_error_before_anything_is_ordered() {
    let world = World::new();
    world.configure(&[("away", "names: [shop.nowhere.test]"), ("shop", "names: [shop.example.test]")]);
    let run = world.project.certplan(&["plan"]).expect(1);
    check!(Run { stdout: run.stdout.lines().filter(|line| line.contains("away")).collect::<Vec<_>>().join("\n") + "\n", ..run }, @"
    Error: certificate/away: where the challenge for `shop.nowhere.test` goes could not be found out: no DNS provider has a zone for `_acme-challenge.shop.nowhere.test` (asked: local): add one under `dns:`, give its credential access to the zone, or delegate the name with a CNAME into a zone of a configured provider
    [exit code: 1]
    ");
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    assert_eq!((world.orders(), world.issued()), (1, 1), "the other is issued: {run}");
    let said = "Apply ended: 1 certificate is as it should be, 1 could not be planned.\n";
    assert!(run.stderr.ends_with(said), "{run}");
}

#[test]
fn an_apply_that_can_do_nothing_ends_as_its_plan_does() {
    let world = World::new();
    world.configure(&[("away", "names: [shop.nowhere.test]"), ("gone", "names: [www.nowhere.test]")]);
    let _ = world.project.certplan(&["plan"]).expect(1);
    let run = world.project.certplan(&["apply", "--auto-approve"]).expect(1);
    let _ = world.project.certplan(&["apply", "--auto-approve", "--json"]).expect(1);
    assert_eq!(world.orders(), 0, "{run}");
    // What can be done is done, and then some failed.
    world.configure(&[("away", "names: [shop.nowhere.test]"), ("shop", "names: [shop.example.test]")]);
    let _ = world.project.certplan(&["plan"]).expect(1);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(3);
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(1);
    assert_eq!(world.issued(), 1);
}

#[test]
fn a_zone_that_lags_is_waited_for() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test, \"*.shop.example.test\"]")]);
    world.faults(|faults| faults.dns.lag = Duration::from_secs(3));
    let _ = world.project.certplan(&["apply", "--auto-approve"]).expect(0);
    assert_eq!((world.orders(), world.issued(), world.txt()), (1, 1, Vec::new()));
}

#[test]
fn updates_that_the_server_refuses_for_a_while_are_repeated() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.faults(|faults| faults.dns.fail_updates_percent = 100);
    let (mut child, events) = world.project.apply_events(&[]);
    let mut entries = world.sandbox.ledger().subscribe();
    let refused = |entry: &certplan::sandbox::Entry| matches!(&entry.event, certplan::sandbox::Event::DnsUpdate(update) if update.rcode == "SERVFAIL");
    world.runtime.block_on(async {
        while world.sandbox.ledger().entries().iter().filter(|entry| refused(entry)).count() < 2 {
            entries.changed().await.expect("the sandbox runs");
        }
    });
    world.faults(|faults| faults.dns.fail_updates_percent = 0);
    let lines: Vec<String> = events.map(|line| line.expect("a line")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{lines:#?}");
    assert_eq!((world.issued(), world.txt()), (1, Vec::new()), "{lines:#?}");
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("\"dns_retry\"")).collect();
    let [told] = told.as_slice() else { panic!("the first repetition is told, and no other: {lines:#?}") };
    for part in
        ["`local`", "`example.test`", "SERVFAIL", "trying again in 500 ms", "\"next_try_seconds\":0.5"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_clock_that_is_a_day_off_is_called_that() {
    for shift in ["-1d", "+1d"] {
        let world = World::new();
        world.configure(&[("shop", "names: [shop.example.test]")]);
        let Some(run) = world.project.certplan_at(shift, &["apply", "--auto-approve"]) else { return };
        no_panic(&run);
        assert_eq!(run.code, Some(1), "{shift}: {run}");
        let way = if shift.starts_with('-') { "behind" } else { "ahead of" };
        let warning = format!("this machine's clock is 24 hours {way} that of the CA");
        assert!(run.to_string().contains(&warning), "{shift}: {run}");
        assert_eq!((world.updates().len(), world.issued()), (0, 0), "{shift}: {run}");
    }
}
