use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use std::time::Instant;

use crate::project::Project;
use crate::project::Run;
use crate::world::World;
use crate::world::check;
use crate::world::no_panic;

fn with_certificate() -> Project {
    let project = Project::new();
    project.write(
        "certplan.yaml",
        &format!(
            "version: 1\nencryption: {{ recipients: [{}] }}\n\
             issuers: {{ ca: {{ acme: {{ directory: \"https://127.0.0.1:1/directory\", agree_tos: true }} }} }}\n\
             dns: {{ local: {{ rfc2136: {{ server: \"127.0.0.1:1\", tsig: {{ name: key, secret: {{ env: NO_SUCH_SECRET }} }} }} }} }}\n\
             certificates:\n  shop:\n    issuer: ca\n    names: [shop.example.test]\n    labels: {{ team: checkout }}\n",
            project.recipient()
        ),
    );
    project
}

#[test]
fn wrong_flags_are_wrong_usage() {
    let project = Project::new();
    check!(project.certplan(&["plan", "--autoapprove"]), @"
    ------- stderr -------
    error: unexpected argument '--autoapprove' found

    Usage: certplan plan [OPTIONS]

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["aply"]), @"
    ------- stderr -------
    error: unrecognized subcommand 'aply'

      tip: a similar subcommand exists: 'apply'

    Usage: certplan [OPTIONS] <COMMAND>

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["apply", "--parallelism", "0"]), @"
    ------- stderr -------
    error: invalid value '0' for '--parallelism <N>': give a number between 1 and 1024

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["apply", "--lock-timeout", "soon"]), @"
    ------- stderr -------
    error: invalid value 'soon' for '--lock-timeout <TIME>': give a time such as 30s, 5m, 1h or 90d

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["apply", "--continue"]), @"
    ------- stderr -------
    error: the following required arguments were not provided:
      <PLANFILE>

    Usage: certplan apply --continue <PLANFILE>

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["plan", "--only", "everything"]), @"
    ------- stderr -------
    error: invalid value 'everything' for '--only <CAUSE>'
      [possible values: config, drift, renewals]

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["plan", "--replace", "shop"]), @"
    ------- stderr -------
    error: invalid value 'shop' for '--replace <ADDRESS>': `shop` is not an address: use `certificate/NAME`, `deployment/NAME/TARGET` or `account/ISSUER`

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["renew"]), @"
    ------- stderr -------
    error: the following required arguments were not provided:
      <ADDRESS>...

    Usage: certplan renew <ADDRESS>...

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["sandbox", "--bad-nonce-rate", "101"]), @"
    ------- stderr -------
    error: invalid value '101' for '--bad-nonce-rate <PERCENT>': 101 is not in 0..=100

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["sandbox", "--ari-window", "0.9-0.1"]), @"
    ------- stderr -------
    error: invalid value '0.9-0.1' for '--ari-window <WINDOW>': give `default`, `now`, `none`, or two fractions of the lifetime: 0.5-0.6

    For more information, try '--help'.
    [exit code: 64]
    ");
}

#[test]
fn a_label_is_a_key_and_a_value() {
    let project = with_certificate();
    check!(project.certplan(&["plan", "--label", "team"]), @"
    ------- stderr -------
    error: `--label team` is not KEY=VALUE
    hint: for example `--label team=checkout`
    [exit code: 64]
    ");
    check!(project.certplan(&["plan", "--label", "=checkout"]), @"
    ------- stderr -------
    error: `--label =checkout` is not KEY=VALUE
    hint: for example `--label team=checkout`
    [exit code: 64]
    ");
}

#[test]
fn a_selection_that_matches_nothing_is_an_error() {
    let project = with_certificate();
    check!(project.certplan(&["plan", "--address", "certificate/shup"]), @"
    1 error, and nothing else to do now.

    Error: the selection matches nothing
      `certplan plan` without a selection shows the addresses; globs are matched against `certificate/NAME`, `deployment/NAME/TARGET` and `account/ISSUER`
    [exit code: 1]
    ");
    check!(project.certplan(&["plan", "-l", "team=payments"]), @"
    1 error, and nothing else to do now.

    Error: the selection matches nothing
      `certplan plan` without a selection shows the addresses; globs are matched against `certificate/NAME`, `deployment/NAME/TARGET` and `account/ISSUER`
    [exit code: 1]
    ");
    check!(project.certplan(&["apply", "--auto-approve", "--exclude", "**"]), @"
    1 error, and nothing else to do now.

    Error: the selection matches nothing
      `certplan plan` without a selection shows the addresses; globs are matched against `certificate/NAME`, `deployment/NAME/TARGET` and `account/ISSUER`
    ------- stderr -------
    error: nothing was applied: the plan has an error that concerns all of it
    [exit code: 1]
    ");
    let run =
        project.certplan(&["apply", "--auto-approve", "--refresh=false", "--exclude", "certificate/shup"]);
    check!(run, @"
    Apply will do the following:
      + create

      # account/ca will be created
      # config: certificates of this CA need an account
      + account/ca
          + directory: https://[address]/directory

      # certificate/shop will be created
      # config: it is new in the configuration
      + certificate/shop
          + names: shop.example.test
          + issuer: ca
          + key_type: ecdsa-p256

    Plan: 2 to add, 0 to change, 0 to remove.
    Targets, endpoints and CAs were not looked at (`--refresh=false`).

    Error: `--exclude certificate/shup` matches nothing
      `certplan plan` without a selection shows the addresses; globs are matched against `certificate/NAME`, `deployment/NAME/TARGET` and `account/ISSUER`
    ------- stderr -------
    error: nothing was applied: the plan has an error that concerns all of it
    [exit code: 1]
    ");
    let run = project.certplan(&["plan", "--replace", "certificate/shup"]);
    check!(run, @"
    2 errors, and nothing else to do now.

    Warning: account/ca: the CA's directory could not be read: cannot connect for `GET https://[address]/directory`: Connection refused (os error 111); 1 certificate is planned without knowing its profiles and what an account needs

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `key.` is missing: environment variable `NO_SUCH_SECRET` is not set

    Error: certificate/shup: `--replace` names what is not in the configuration
    [exit code: 1]
    ");
}

#[test]
fn a_saved_plan_takes_no_selection_for_it_has_one() {
    let project = with_certificate();
    for flags in [
        &["--address", "certificate/shop"][..],
        &["--exclude", "certificate/shop"],
        &["--label", "team=checkout"],
        &["--only", "drift"],
        &["--replace", "certificate/shop"],
    ] {
        let run = project.certplan(&[&["apply", "saved.json"], flags].concat()).expect(64);
        assert!(run.stderr.contains("cannot be used with") && run.stderr.contains(flags[0]), "{run}");
    }
    // What a file cannot grant is given beside it.
    let run = project.certplan(&["apply", "saved.json", "--allow-remove", "certificate/shop"]).expect(1);
    assert!(run.stderr.contains("cannot read `saved.json`"), "{run}");
}

#[test]
fn unknown_addresses_are_named() {
    let project = with_certificate();
    check!(project.certplan(&["show", "certificate/shup"]), @"
    ------- stderr -------
    error: state knows no `certificate/shup`
    hint: `certplan state list` shows what there is
    [exit code: 1]
    ");
    check!(project.certplan(&["state", "rm", "certificate/shup"]), @"
    ------- stderr -------
    error: state knows no `certificate/shup`
    hint: `certplan state list` shows what there is
    [exit code: 1]
    ");
    check!(project.certplan(&["state", "rm", "account/ca"]), @"
    ------- stderr -------
    error: an account is not forgotten: its key would be lost, and with it every order
    hint: remove the issuer from the configuration; its account stays in state for when it comes back
    [exit code: 1]
    ");
    check!(project.certplan(&["state", "mv", "certificate/shup", "certificate/other"]), @"
    ------- stderr -------
    error: state knows no `certificate/shup`
    hint: `certplan state list` shows what there is
    [exit code: 1]
    ");
    check!(project.certplan(&["state", "mv", "certificate/shop", "account/ca"]), @"
    ------- stderr -------
    error: only certificates are renamed: `certplan state mv certificate/OLD certificate/NEW`
    [exit code: 64]
    ");
    check!(project.certplan(&["state", "mv", "certificate/shop", "certificate/shop"]), @"
    ------- stderr -------
    error: both names are the same: `certificate/shop`
    [exit code: 64]
    ");
    check!(project.certplan(&["renew", "shup"]), @"
    ------- stderr -------
    error: `certificate/shup` is not in the configuration
    hint: the configuration has shop
    [exit code: 1]
    ");
    check!(project.certplan(&["renew", "account/ca"]), @"
    ------- stderr -------
    error: invalid value 'account/ca' for '<ADDRESS>...': give the address of a certificate: certificate/NAME

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["key", "export", "shup", "--out", "key.pem"]), @"
    ------- stderr -------
    error: state knows no `certificate/shup`
    hint: `certplan state list` shows what there is
    [exit code: 1]
    ");
    check!(project.certplan(&["state", "unlock", "certificate/shop"]), @"
    ------- stderr -------
    Nobody holds the lease of certificate/shop.
    [exit code: 0]
    ");
    check!(project.certplan(&["show", "no-such-file"]), @"
    ------- stderr -------
    error: cannot read `no-such-file`: No such file or directory (os error 2)
    hint: give an address such as certificate/NAME, or a file that `certplan plan --out` saved
    [exit code: 1]
    ");
    assert!(!project.path().join("key.pem").exists());
    assert!(!project.path().join(".certplan").exists(), "looking writes nothing");
}

#[test]
fn arguments_need_not_be_utf8() {
    let project = with_certificate();
    let invalid = OsStr::from_bytes(b"no\xffthing");
    for arguments in [
        vec![invalid],
        vec![OsStr::new("show"), invalid],
        vec![OsStr::new("plan"), OsStr::new("--address"), invalid],
        vec![OsStr::new("apply"), invalid],
        vec![OsStr::new("validate"), OsStr::new("--config"), invalid],
        vec![OsStr::new("plan"), OsStr::new("--out"), invalid, OsStr::new("--refresh=false")],
    ] {
        let output = project.command(&[]).args(&arguments).output().expect("certplan starts");
        let run = Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        no_panic(&run);
        assert!(matches!(run.code, Some(0 | 1 | 64)), "{arguments:?}: {run}");
    }
}

#[test]
fn control_characters_of_an_argument_are_shown_and_not_obeyed() {
    let project = with_certificate();
    for arguments in [["show", "a\u{1b}[31mred"], ["apply", "a\u{1b}[31mred"], ["promote", "a\u{1b}[31mred"]]
    {
        let run = project.certplan(&arguments);
        no_panic(&run);
        assert!(!run.stderr.contains("\u{1b}[31mred"), "{run:?}");
    }
}

#[test]
fn a_file_that_begins_with_a_dash_can_be_named() {
    let project = with_certificate();
    let run = project.certplan(&["show", "--", "-plan"]).expect(1);
    assert!(run.stderr.contains("`-plan`"), "{run}");
}

#[test]
fn without_a_terminal_nothing_is_guessed() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    let run = world.project.certplan(&["apply"]);
    let run = Run { stdout: String::new(), ..run };
    check!(run, @"
    ------- stderr -------
    error: there is no terminal to ask on; nothing was applied
    hint: apply without asking with `--auto-approve`, or apply a saved plan
    [exit code: 1]
    ");
    let events = world.project.certplan(&["apply", "--json"]).expect(1);
    assert!(events.stderr.contains("events show no plan that could be approved"), "{events}");
    // Who reads events reads it there as well.
    let last: serde_json::Value = serde_json::from_str(events.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["severity"]), (&"diagnostic".into(), &"error".into()), "{events}");
    assert!(last["summary"].as_str().unwrap().contains("no plan that could be approved"), "{events}");
    assert!(last["detail"].as_str().unwrap().contains("--auto-approve"), "{events}");
    for arguments in
        [&["apply", "--json"][..], &["renew", "shop", "--json"], &["apply", "--json", "no-such-plan"]]
    {
        world.project.write("certplan.yaml", "certificates: [");
        let run = world.project.certplan(arguments);
        let events: Vec<serde_json::Value> =
            run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let types: Vec<&serde_json::Value> = events.iter().map(|event| &event["type"]).collect();
        assert_eq!(types, ["version", "diagnostic", "diagnostic"], "{arguments:?}: {run}");
        assert_eq!((&events[1]["file"], &events[1]["line"]), (&"certplan.yaml".into(), &1.into()), "{run}");
        assert_eq!(events[2]["summary"], "the configuration has 1 problem", "{run}");
        assert_eq!(run.code, Some(1), "{arguments:?}: {run}");
    }
    assert_eq!(world.effects(), [0, 0, 0]);
    assert!(!world.state_folder().exists());
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let project = with_certificate();
    let mut child = project
        .command(&["schema"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("certplan starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_deployment_that_state_does_not_know_is_not_shown_as_its_certificate() {
    let world = World::with_shop();
    let list = world.project.certplan(&["state", "list"]).expect(0).stdout;
    let known = list.lines().find(|line| line.starts_with("deployment/shop/")).expect("it is deployed");
    let run = world.project.certplan(&["show", known]).expect(0);
    assert!(run.stdout.starts_with("certificate/shop\n"), "{run}");
    check!(world.project.certplan(&["show", "deployment/shop/nope"]), @"
    ------- stderr -------
    error: state knows no `deployment/shop/nope`
    hint: `certplan state list` shows what there is
    [exit code: 1]
    ");
}

#[test]
fn output_that_cannot_be_written_is_named() {
    let project = with_certificate();
    let full = fs::File::create("/dev/full").expect("Linux has it");
    let output = project.command(&["schema"]).stdout(full).output().expect("certplan starts");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "error: cannot write to standard output: No space left on device (os error 28)\n");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let project = with_certificate();
    let output = project.command(&["validate"]).env("CERTPLAN_CONFIG", "").output().expect("certplan starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = project
        .command(&["validate"])
        .env("CERTPLAN_CONFIG", "other.yaml")
        .output()
        .expect("certplan starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: there is no configuration at `other.yaml`\n");
    // An empty argument is a mistake: it must not become another configuration than the one that was meant.
    let run = project.certplan(&["validate", "--config", ""]).expect(64);
    assert!(run.stderr.contains("a value is required for '--config <PATH>'"), "{run}");
}

#[test]
fn nothing_waits_for_the_other_end_of_a_pipe() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    let folder = world.project.path();
    for pipe in ["secret", "identity", "plan.json", "root"] {
        assert!(
            std::process::Command::new("mkfifo").arg(folder.join(pipe)).status().expect("mkfifo").success()
        );
    }
    let config = world.project.read("certplan.yaml");
    let secret = config.replace("{ env: WORLD_TSIG_SECRET }", "{ file: secret }");
    world.project.write("secret.yaml", &secret);
    world.project.write("endless.yaml", &secret.replace("file: secret", "file: /dev/zero"));
    world.project.write("bundle.yaml", &config.replace("root.pem", "root"));
    for (arguments, named) in [
        (
            &["plan", "--config", "secret.yaml"][..],
            "file `secret` cannot be read: it is no small regular file",
        ),
        (
            &["plan", "--config", "endless.yaml"],
            "file `/dev/zero` cannot be read: it is no small regular file",
        ),
        (
            &["plan", "--config", "bundle.yaml"],
            "the CA bundle of issuer `ca`: `./root` is not a regular file",
        ),
        (&["plan", "--out", "plan.json"], "cannot write `plan.json`: it is not a regular file"),
        (
            &["init", "a.example", "--dns", "rfc2136", "--config", "new.yaml"],
            "cannot read the identity file `",
        ),
    ] {
        let mut command = world.project.command(arguments);
        if arguments[0] == "init" {
            command.env("CERTPLAN_AGE_KEY_FILE", folder.join("identity"));
        }
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("certplan starts");
        let late = Instant::now() + Duration::from_secs(30);
        while child.try_wait().expect("it is ours").is_none() {
            if Instant::now() > late {
                child.kill().expect("it is ours");
                panic!("{arguments:?} waits");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().expect("it ended");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.code() == Some(1) && said.contains(named), "{arguments:?}: {said}");
    }
}

#[test]
fn a_plan_is_not_saved_over_a_folder_or_into_one_that_is_not_there() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    fs::create_dir(world.project.path().join("taken")).expect("the folder is writable");
    let run = world.project.certplan(&["plan", "--out", "taken"]).expect(1);
    assert!(run.stderr.contains("cannot write `taken`"), "{run}");
    let run = world.project.certplan(&["plan", "--out", "no/such/folder"]).expect(1);
    assert!(run.stderr.contains("cannot write `no/such/folder`"), "{run}");
}

#[test]
fn a_plan_is_never_saved_over_something_else() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.project.write("identity.txt", "AGE-SECRET-KEY-1");
    for file in ["certplan.yaml", "identity.txt"] {
        let before = world.project.read(file);
        let run = world.project.certplan(&["plan", "--out", file]).expect(1);
        assert!(run.stderr.contains(&format!("`{file}` is there and is no saved plan")), "{run}");
        assert_eq!(world.project.read(file), before);
    }
    world.project.write("empty", "");
    for file in ["new.plan", "new.plan", "empty"] {
        world.project.certplan(&["plan", "--out", file]).expect(0);
    }
}
