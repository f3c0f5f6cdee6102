use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::project::Project;
use crate::world::SECRET;
use crate::world::World;
use crate::world::check;
use crate::world::no_panic;

#[test]
fn an_empty_configuration_never_plans_a_removal() {
    let world = World::with_shop();
    let before = (crate::world::tree(world.project.path()).len(), world.effects());
    for text in [
        "",
        "\n\n",
        "# nothing yet\n",
        "---\n",
        "{}\n",
        "null\n",
        "[]\n",
        "version: 1\n",
        "version: 1\ncertificates:\n",
    ] {
        world.project.write("certplan.yaml", text);
        for arguments in [&["plan"][..], &["apply", "--auto-approve"]] {
            let run = world.project.certplan(arguments);
            no_panic(&run);
            assert_eq!(run.code, Some(1), "{text:?} {arguments:?}: {run}");
            assert_eq!(run.stdout, "", "{text:?}");
        }
    }
    assert_eq!((crate::world::tree(world.project.path()).len(), world.effects()), before);
}

#[test]
fn what_is_wrong_with_an_empty_configuration_is_said() {
    let project = Project::new();
    project.write("certplan.yaml", "");
    check!(project.certplan(&["validate"]), @"
    ------- stderr -------
    error[empty]: the configuration is empty
     --> certplan.yaml:1:1
      |
    1 |
      | ^
      |
      = help: an empty configuration never plans anything, least of all removals
      = help: `certplan init NAME --dns KIND` writes one to begin with, where no file is yet
    error: the configuration has 1 problem
    [exit code: 1]
    ");
    project.write("certplan.yaml", "# to be written\n");
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error[empty]: the configuration is empty
     --> certplan.yaml:1:1
      |
    1 | # to be written
      | ^
      |
      = help: an empty configuration never plans anything, least of all removals
      = help: `certplan init NAME --dns KIND` writes one to begin with, where no file is yet
    error: the configuration has 1 problem
    [exit code: 1]
    ");
    project.write("certplan.yaml", "version: 1\n");
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error[missing-key]: the key `certificates` is missing
     --> certplan.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^
      |
      = help: add `certificates: { ... }`
    error: the configuration has 1 problem
    [exit code: 1]
    ");
    project.write("certplan.yaml", "version: 1\ncertificates: {}\n");
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    warning[no-encryption]: without `encryption:` nothing can be issued
     --> certplan.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^^^^
      |
      = help: add `encryption: { recipients: [age1...] }` with the recipient that `certplan init` prints

    error[empty]: there is no certificate
     --> certplan.yaml:2:1
      |
    2 | certificates: {}
      | ^^^^^^^^^^^^
      |
      = help: an empty configuration never plans anything, least of all removals; `certplan state rm` forgets the last certificate

    warning[no-dns]: there is no DNS provider to prove control of names with
     --> certplan.yaml:2:1
      |
    2 | certificates: {}
      | ^^^^^^^^^^^^
      |
      = help: add one under `dns:`; without it only names that the CA has authorised already can be issued
    error: the configuration has 1 problem
    [exit code: 1]
    ");
}

#[test]
fn what_is_no_file_is_not_read() {
    let project = Project::new();
    let path = project.path().join("certplan.yaml");
    fs::create_dir(&path).expect("the folder is writable");
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error: the folder `certplan.yaml` holds no `*.yaml` and no `*.yml`
    hint: `certplan init NAME --dns KIND --to FOLDER` writes a first configuration; `--config PATH` names another
    [exit code: 1]
    ");
    fs::remove_dir(&path).expect("it is there");

    let elsewhere = project.write("elsewhere.yaml", "version: 1\n");
    symlink(&elsewhere, &path).expect("the folder is writable");
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not a regular file: configurations are not read through links or devices
    [exit code: 1]
    ");
    fs::remove_file(&path).expect("it is there");

    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not a regular file: configurations are not read through links or devices
    [exit code: 1]
    ");
    check!(project.certplan(&["promote", "ca"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not a regular file: configurations are not read through links or devices
    [exit code: 1]
    ");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not a regular file: configurations are not read through links or devices
    [exit code: 1]
    ");
    check!(project.certplan(&["apply", "certplan.yaml", "--config", "elsewhere.yaml"]), @"
    ------- stderr -------
    error[missing-key]: the key `certificates` is missing
     --> elsewhere.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^
      |
      = help: add `certificates: { ... }`
    error: the configuration has 1 problem
    [exit code: 1]
    ");
    check!(project.certplan(&["show", "certplan.yaml"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not a regular file
    hint: give an address such as certificate/NAME, or a file that `certplan plan --out` saved
    [exit code: 1]
    ");
    check!(project.certplan(&["validate", "--config", "/dev/zero"]), @"
    ------- stderr -------
    error: `/dev/zero` is not a regular file: configurations are not read through links or devices
    [exit code: 1]
    ");
    check!(project.certplan(&["show", "/dev/zero"]), @"
    ------- stderr -------
    error: `/dev/zero` is not a regular file
    hint: give an address such as certificate/NAME, or a file that `certplan plan --out` saved
    [exit code: 1]
    ");
}

#[test]
fn an_unreadable_configuration_is_named() {
    let project = Project::new();
    let path = project.write("certplan.yaml", "version: 1\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("own file");
    if fs::read(&path).is_ok() {
        println!("skipped: this user reads every file, whatever its permissions");
        return;
    }
    check!(project.certplan(&["plan"]), @"");
}

#[test]
fn octets_that_are_no_text_are_named_with_their_line() {
    let project = Project::new();
    fs::write(project.path().join("certplan.yaml"), b"version: 1\nproject: \xff\xfe\n").expect("writable");
    check!(project.certplan(&["validate"]), @"
    ------- stderr -------
    error: certplan.yaml:2:10: this octet is no UTF-8: 0xff
    hint: a configuration is UTF-8 text; save it as that in your editor
    [exit code: 1]
    ");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    error: certplan.yaml:2:10: this octet is no UTF-8: 0xff
    hint: a configuration is UTF-8 text; save it as that in your editor
    [exit code: 1]
    ");
    let utf16: Vec<u8> = "version: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(project.path().join("certplan.yaml"), [&[0xff, 0xfe][..], &utf16].concat()).expect("writable");
    check!(project.certplan(&["validate"]), @"
    ------- stderr -------
    error: certplan.yaml:1:1: this octet is no UTF-8: 0xff
    hint: a configuration is UTF-8 text; save it as that in your editor
    [exit code: 1]
    ");
}

#[test]
fn all_problems_are_shown_at_once_with_their_places() {
    let project = Project::new();
    project.write(
        "certplan.yaml",
        "version: 1\nisuers: {}\ncertificates:\n  shop:\n    names: [shop..example.com, 192.0.2.1]\n    issuer: nobody\n    renew: { before: soon }\n",
    );
    check!(project.certplan(&["validate"]), @"
    ------- stderr -------
    warning[no-encryption]: without `encryption:` nothing can be issued
     --> certplan.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^^^^
      |
      = help: add `encryption: { recipients: [age1...] }` with the recipient that `certplan init` prints

    error[unknown-key]: unknown key `isuers`
     --> certplan.yaml:2:1
      |
    2 | isuers: {}
      | ^^^^^^
      |
      = help: did you mean `issuers`?

    warning[no-dns]: there is no DNS provider to prove control of names with
     --> certplan.yaml:3:1
      |
    3 | certificates:
      | ^^^^^^^^^^^^
      |
      = help: add one under `dns:`; without it only names that the CA has authorised already can be issued

    error[bad-dns-name]: `shop..example.com` cannot be in a certificate: the name has an empty label
     --> certplan.yaml:5:13
      |
    5 |     names: [shop..example.com, 192.0.2.1]
      |             ^^^^^^^^^^^^^^^^^

    error[bad-dns-name]: `192.0.2.1` cannot be in a certificate: an IP address cannot be validated through DNS
     --> certplan.yaml:5:32
      |
    5 |     names: [shop..example.com, 192.0.2.1]
      |                                ^^^^^^^^^
      |
      = help: certplan proves control through DNS only; use a name

    error[unknown-issuer]: there is no issuer `nobody`
     --> certplan.yaml:6:13
      |
    6 |     issuer: nobody
      |             ^^^^^^
      |
      = help: define it under `issuers:`

    error[bad-value]: `soon` does not have the expected form
     --> certplan.yaml:7:22
      |
    7 |     renew: { before: soon }
      |                      ^^^^
      |
      = help: for example `1/3`
    error: the configuration has 5 problems
    [exit code: 1]
    ");
}

#[test]
fn the_problems_that_are_not_shown_are_counted() {
    let project = Project::new();
    project.write("certplan.yaml", &format!("version: 1\n{}", "a: 1\n".repeat(3_000)));
    let run = project.certplan(&["validate"]).expect(1);
    let end: Vec<&str> = run.stderr.lines().rev().take(2).collect();
    // 2,999 duplicates, an unknown key, and no certificates.
    assert_eq!(end, ["error: the configuration has 3001 problems", "2001 more problems are not shown"]);
}

#[test]
fn text_of_a_configuration_is_shown_and_not_obeyed() {
    let project = Project::new();
    project.write(
        "certplan.yaml",
        "version: 1\nproject: \"\\u001b[31mred\\u202e\"\n\"\\u001b]0;title\\u0007\": 1\n",
    );
    let run = project.certplan(&["validate"]).expect(1);
    assert!(!run.stderr.contains("\u{1b}[31mred") && !run.stderr.contains('\u{202e}'), "{run:?}");
    assert!(!run.stderr.contains("\u{1b}]0;title"), "{run:?}");
}

#[test]
fn a_secret_that_is_missing_is_named_and_nothing_is_touched() {
    let mut world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world.project.unset(SECRET);
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `certplan-sandbox.` is missing: environment variable `WORLD_TSIG_SECRET` is not set
    [exit code: 1]
    ");
    world.project.set(SECRET, "");
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `certplan-sandbox.` is missing: environment variable `WORLD_TSIG_SECRET` is empty
    [exit code: 1]
    ");
    world.project.set(SECRET, "not base64 at all!");
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `certplan-sandbox.` is not base64: copy it from the server's key statement
    [exit code: 1]
    ");

    let text = world.config(&[("shop", "names: [shop.example.test]")]);
    let text = text.replace("{ env: WORLD_TSIG_SECRET }", "{ file: no-such-secret }");
    world.project.write("certplan.yaml", &text);
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `certplan-sandbox.` is missing: file `no-such-secret` cannot be read: No such file or directory (os error 2)
    [exit code: 1]
    ");
    world.project.write("no-such-secret", "\n");
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `certplan-sandbox.` is missing: file `no-such-secret` is empty
    [exit code: 1]
    ");
    assert_eq!(world.effects(), [0, 0, 0]);
}

#[test]
fn a_literal_secret_is_refused_without_an_echo() {
    let world = World::new();
    let text = world.config(&[("shop", "names: [shop.example.test]")]);
    let text = text.replace("{ env: WORLD_TSIG_SECRET }", "c2VjcmV0LWluLXRoZS1maWxl");
    world.project.write("certplan.yaml", &text);
    let run = world.project.certplan(&["plan"]).expect(1);
    assert!(!run.to_string().contains("c2VjcmV0LWluLXRoZS1maWxl"), "{run}");
    let run = crate::project::Run {
        stderr: run.stderr.lines().last().unwrap_or_default().to_owned() + "\n",
        ..run
    };
    check!(run, @"
    ------- stderr -------
    error: the configuration has 1 problem
    [exit code: 1]
    ");
}

#[test]
fn a_certificate_bundle_that_is_missing_or_broken_is_named() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    fs::remove_file(world.project.path().join("root.pem")).expect("it is there");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: the CA bundle of issuer `ca`: cannot read `./root.pem`: No such file or directory (os error 2)
    [exit code: 1]
    ");
    world.project.write("root.pem", "no certificate\n");
    check!(world.project.certplan(&["plan"]), @"
    ------- stderr -------
    error: issuer `ca`: the HTTP client cannot be set up: the CA bundle holds no certificate in PEM
    [exit code: 1]
    ");
}

#[test]
fn nothing_is_issued_without_encryption() {
    let world = World::new();
    let text = world.config(&[("shop", "names: [shop.example.test]")]);
    let recipients = format!("encryption:\n  recipients: [{}]\n", world.project.recipient());
    world.project.write("certplan.yaml", &text.replace(&recipients, ""));
    check!(world.project.certplan(&["plan"]), @"
    1 error, and nothing else to do now.

    Error: 1 certificate waits for `encryption:`: private keys are never stored in the clear
      add to the configuration, with the recipient that `certplan init` or `age-keygen` prints:
      encryption:
        recipients: [age1...]
    ------- stderr -------
    warning[no-encryption]: without `encryption:` nothing can be issued
     --> certplan.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^^^^
      |
      = help: add `encryption: { recipients: [age1...] }` with the recipient that `certplan init` prints
    [exit code: 1]
    ");
    check!(world.project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Error: 1 certificate waits for `encryption:`: private keys are never stored in the clear
      add to the configuration, with the recipient that `certplan init` or `age-keygen` prints:
      encryption:
        recipients: [age1...]
    ------- stderr -------
    warning[no-encryption]: without `encryption:` nothing can be issued
     --> certplan.yaml:1:1
      |
    1 | version: 1
      | ^^^^^^^^^^
      |
      = help: add `encryption: { recipients: [age1...] }` with the recipient that `certplan init` prints
    error: nothing was applied: the plan has an error that concerns all of it
    [exit code: 1]
    ");
    assert_eq!(world.effects(), [0, 0, 0]);
}
