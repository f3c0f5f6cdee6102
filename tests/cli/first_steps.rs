use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use std::time::Instant;

use crate::project::Project;
use crate::project::Run;
use crate::world::World;
use crate::world::check;

/// The README, without what differs from run to run.
pub(super) fn readme() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    without_chance(&fs::read_to_string(path).expect("there is a README"))
}

/// A text without its recipients and ports.
pub(super) fn without_chance(text: &str) -> String {
    let mut left = String::new();
    for (index, part) in text.split("age1").enumerate() {
        let part = match index {
            0 => part,
            _ => part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()),
        };
        left.push_str(if index == 0 { "" } else { "age1" });
        for (index, part) in part.split("127.0.0.1:").enumerate() {
            let part = if index == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
            left.push_str(if index == 0 { "" } else { "127.0.0.1:" });
            left.push_str(part);
        }
    }
    left
}

#[test]
fn the_readme_shows_what_init_says_and_writes() {
    let project = fresh();
    let run = project.certplan(&["init", "shop.example.com", "--dns", "rfc2136", "--to", "./out"]).expect(0);
    let readme = readme();
    let written = without_chance(&project.read("certplan.yaml"));
    assert!(readme.contains(&format!("```yaml\n{written}```\n")), "{written}");
    for line in run.stderr.lines().filter(|line| !line.contains("identity.txt")) {
        assert!(
            line.is_empty() || readme.contains(&format!("\n    {line}\n")),
            "`{line}` is not in the README"
        );
    }
}

fn fresh() -> Project {
    let mut project = Project::new();
    project.unset("CERTPLAN_AGE_KEY_FILE");
    project
}

#[test]
fn every_command_in_an_empty_folder_says_how_to_begin() {
    let project = fresh();
    for arguments in [
        &["validate"][..],
        &["plan"],
        &["apply", "--auto-approve"],
        &["show"],
        &["renew", "shop"],
        &["state", "list"],
        &["key", "export", "shop", "--out", "key.pem"],
    ] {
        let run = project.certplan(arguments).expect(1);
        assert_eq!(run.stdout, "", "{arguments:?}");
        assert!(run.stderr.contains("certplan init"), "{arguments:?}: {run}");
    }
    check!(project.certplan(&["plan"]), @"
    ------- stderr -------
    error: there is no configuration at `certplan.yaml`
    hint: `certplan init NAME --dns KIND --to FOLDER` writes a first configuration; `--config PATH` names another
    [exit code: 1]
    ");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    error: there is no configuration at `certplan.yaml`
    hint: `certplan init NAME --dns KIND --to FOLDER` writes a first configuration; `--config PATH` names another
    [exit code: 1]
    ");
    check!(project.certplan(&["promote", "letsencrypt"]), @"
    ------- stderr -------
    error: there is no configuration at `certplan.yaml`
    hint: `certplan init NAME --dns KIND --to FOLDER` writes a first configuration; `--config PATH` names another
    [exit code: 1]
    ");
}

#[test]
fn init_asks_for_what_it_needs() {
    let project = fresh();
    check!(project.certplan(&["init"]), @"
    ------- stderr -------
    error: the following required arguments were not provided:
      --dns <KIND>
      <NAME>...

    Usage: certplan init --dns <KIND> <NAME>...

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["init", "shop.example.com", "--dns", "cloudfare"]), @"
    ------- stderr -------
    error: invalid value 'cloudfare' for '--dns <KIND>'
      [possible values: powerdns, rfc2136]

    For more information, try '--help'.
    [exit code: 64]
    ");
    check!(project.certplan(&["init", "shop..example.com", "--dns", "rfc2136"]), @"
    ------- stderr -------
    error: `shop..example.com` cannot be in a certificate: the name has an empty label
    [exit code: 64]
    ");
    check!(project.certplan(&["init", "192.0.2.1", "--dns", "rfc2136"]), @"
    ------- stderr -------
    error: `192.0.2.1` cannot be in a certificate: an IP address cannot be validated through DNS
    [exit code: 64]
    ");
    assert!(!project.path().join("certplan.yaml").exists());
    assert!(!project.path().join("home/.config/certplan/identity.txt").exists(), "nothing is half done");
}

#[test]
fn init_writes_a_configuration_that_is_valid_and_an_identity_that_is_private() {
    let project = fresh();
    check!(project.certplan(&["init", "shop.example.com", "--dns", "powerdns", "--to", "./out"]), @"
    ------- stderr -------
    Wrote certplan.yaml
    Wrote [folder]/home/.config/certplan/identity.txt
    Keep a copy of it in a safe place: without it, nobody can open what is sealed.

    Look through the file. Then:

        export POWERDNS_API_KEY=...
        certplan plan
        certplan apply
    [exit code: 0]
    ");
    let _ = project.certplan(&["validate"]).expect(0);
    let identity = project.path().join("home/.config/certplan/identity.txt");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&identity), 0o600);
    assert_eq!(mode(identity.parent().expect("it has one")), 0o700);

    let before = (project.read("certplan.yaml"), project.read("home/.config/certplan/identity.txt"));
    check!(project.certplan(&["init", "other.example.com", "--dns", "rfc2136"]), @"
    ------- stderr -------
    error: `certplan.yaml` is there already; nothing was changed
    hint: edit it, or write another with `--config PATH`
    [exit code: 1]
    ");
    let after = (project.read("certplan.yaml"), project.read("home/.config/certplan/identity.txt"));
    assert_eq!(before, after, "init changes nothing where there is a configuration");

    let run = project.certplan(&["fmt"]).expect(0);
    assert_eq!(before.0, project.read("certplan.yaml"), "init writes what fmt would: {run}");
}

#[test]
fn init_writes_nothing_that_would_not_be_valid() {
    for (arguments, reason) in [
        (&["a.example.com", "--contact", "nobody"][..], "`nobody` is not an e-mail address"),
        (&["*.example.com", "w.example.com"], "`w.example.com` is covered by `*.example.com`"),
        (&["localhost"], "`localhost` has one label"),
        (&["a.example.com", "--to", ""], "director"),
    ] {
        let project = fresh();
        let run = project.certplan(&[&["init", "--dns", "rfc2136"], arguments].concat()).expect(64);
        assert!(
            run.stderr.contains(reason) && run.stderr.contains("nothing was written"),
            "{arguments:?}: {run}"
        );
        assert!(!project.path().join("certplan.yaml").exists());
        assert!(!project.path().join("home/.config").exists(), "nothing is half done");
    }
}

#[test]
fn a_second_project_uses_the_identity_that_is_there() {
    let project = fresh();
    let _ = project.certplan(&["init", "a.example.com", "--dns", "rfc2136"]).expect(0);
    let run =
        project.certplan(&["init", "b.example.com", "--dns", "rfc2136", "--config", "b.yaml"]).expect(0);
    assert!(!run.stderr.contains("identity.txt"), "{run}");
    assert!(run.stderr.contains("certplan plan --config b.yaml"), "{run}");
    let recipients = |file: &str| {
        let text = project.read(file);
        text.lines().find(|line| line.contains("recipients:")).expect("a line").to_owned()
    };
    assert_eq!(recipients("certplan.yaml"), recipients("b.yaml"));
}

#[test]
fn init_without_a_home_says_what_to_set() {
    let project = fresh();
    let output = project
        .command(&["init", "shop.example.com", "--dns", "rfc2136"])
        .env_remove("HOME")
        .output()
        .expect("certplan starts");
    let run = Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    check!(run, @"
    ------- stderr -------
    error: there is no home folder to keep an age identity in
    hint: set CERTPLAN_AGE_KEY_FILE to the path of an identity
    [exit code: 1]
    ");
    assert!(!project.path().join("certplan.yaml").exists());
}

#[test]
fn promote_is_an_edit_that_one_can_review() {
    let project = fresh();
    let _ = project.certplan(&["init", "shop.example.com", "--dns", "rfc2136"]).expect(0);
    check!(project.certplan(&["promote", "letsencrypt"]), @"
    --- certplan.yaml
    +++ certplan.yaml
    @@ -9,3 +9,3 @@
         acme:
    -      directory: letsencrypt-staging # letsencrypt-staging rehearses, browsers do not trust it; `certplan promote letsencrypt` ends that
    +      directory: letsencrypt
           agree_tos: true # https://letsencrypt.org/repository/
    ------- stderr -------

    The certificates of this issuer are issued anew by the next apply: `certplan plan` shows them.
    [exit code: 0]
    ");
    assert!(project.read("certplan.yaml").contains("directory: letsencrypt\n"));
    check!(project.certplan(&["promote", "letsencrypt"]), @"
    ------- stderr -------
    error: the issuer `letsencrypt` does not use a staging directory
    [exit code: 1]
    ");
    check!(project.certplan(&["promote", "nobody"]), @"
    ------- stderr -------
    error: there is no issuer `nobody` in this file
    hint: the issuers here are `letsencrypt`
    [exit code: 1]
    ");
    check!(project.certplan(&["promote", "letsencript"]), @"
    ------- stderr -------
    error: there is no issuer `letsencript` in this file
    hint: did you mean `letsencrypt`?
    [exit code: 1]
    ");
}

#[test]
fn what_init_leaves_to_be_replaced_is_an_error_until_it_is() {
    let project = Project::new();
    let _ = project.certplan(&["init", "shop.example.com", "--dns", "rfc2136"]).expect(0);
    check!(project.certplan(&["validate"]), @"
    ------- stderr -------
    error[placeholder]: `REPLACE-ME` is still to be replaced
      --> certplan.yaml:17:15
       |
    17 |       server: REPLACE-ME
       |               ^^^^^^^^^^
       |
       = help: write the value of `server` here: only you know it

    error[placeholder]: `REPLACE-ME` is still to be replaced
      --> certplan.yaml:19:21
       |
    19 |       tsig: { name: REPLACE-ME, secret: { env: RFC2136_TSIG_SECRET } }
       |                     ^^^^^^^^^^
       |
       = help: write the value of `name` here: only you know it
    error: the configuration has 2 problems
    [exit code: 1]
    ");
    assert_eq!(project.certplan(&["plan"]).expect(1).stdout, "");
    let text = project.read("certplan.yaml").replace("REPLACE-ME", "ns1.example.com");
    project.write("certplan.yaml", &text);
    let _ = project.certplan(&["validate"]).expect(0);
}

#[test]
fn an_identity_that_others_can_read_is_warned_of() {
    let world = World::with_shop();
    let path = world.project.path().join("identity.txt");
    let warning = format!(
        "warning: `{}` holds an identity and can be read or written by every user: `chmod 600` it\n",
        path.display()
    );
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
        let run = world.project.certplan(&["-q", "apply", "--auto-approve"]).expect(0);
        assert_eq!(run.stderr, if warned { warning.as_str() } else { "" }, "{mode:o}");
    }
    let run = world.project.certplan(&["init", "b.example.test", "--dns", "powerdns", "--config", "b.yaml"]);
    assert!(run.stderr.contains(&warning), "{run}");
}

#[test]
fn fmt_says_what_it_did() {
    let project = Project::new();
    let (good, bad) = ("version: 1\ncertificates: {}\n", "version: 1   \n\n\n\ncertificates: {}");
    project.write("certplan.yaml", bad);
    check!(project.certplan(&["fmt", "--check"]), @"
    ------- stderr -------
    error: `certplan.yaml` is not formatted
    hint: `certplan fmt` formats it
    [exit code: 1]
    ");
    assert_eq!(project.read("certplan.yaml"), bad, "nothing was changed");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    Formatted certplan.yaml
    [exit code: 0]
    ");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    Already formatted: certplan.yaml
    [exit code: 0]
    ");
    check!(project.certplan(&["fmt", "--check"]), @"
    ------- stderr -------
    Already formatted: certplan.yaml
    [exit code: 0]
    ");
    assert_eq!(project.certplan(&["-q", "fmt"]).expect(0).stderr, "");
    project.write("certplan.yaml", "version: [1\n");
    check!(project.certplan(&["fmt"]), @"
    ------- stderr -------
    error: `certplan.yaml` cannot be formatted
    hint: `certplan validate` shows why
    [exit code: 1]
    ");

    project.write("folder/a.yaml", good);
    project.write("folder/b.yaml", bad);
    project.write("folder/c.yaml", "version: [1\n");
    project.write("folder/notes.txt", bad);
    check!(project.certplan(&["--config", "folder", "fmt", "--check"]), @"
    ------- stderr -------
    Already formatted: folder/a.yaml
    error: `folder/b.yaml` is not formatted
    hint: `certplan fmt` formats it
    error: `folder/c.yaml` cannot be formatted
    hint: `certplan validate` shows why
    [exit code: 1]
    ");
    check!(project.certplan(&["--config", "folder", "fmt"]), @"
    ------- stderr -------
    Already formatted: folder/a.yaml
    Formatted folder/b.yaml
    error: `folder/c.yaml` cannot be formatted
    hint: `certplan validate` shows why
    [exit code: 1]
    ");
    assert_eq!(
        (project.read("folder/b.yaml"), project.read("folder/notes.txt")),
        (good.replace("\n", "\n\n").replace("{}\n\n", "{}\n"), bad.to_owned())
    );
    fs::create_dir(project.path().join("empty")).expect("writable");
    check!(project.certplan(&["--config", "empty", "fmt"]), @"
    ------- stderr -------
    error: the folder `empty` holds no `*.yaml` and no `*.yml`
    [exit code: 1]
    ");
}

#[test]
fn what_edits_a_configuration_reads_it_as_validate_does_and_never_through_a_link() {
    let project = Project::new();
    let text = "version: 1   \nissuers:\n  le:\n    acme:\n      directory: letsencrypt-staging\n";
    let real = project.write("elsewhere/real.yaml", text);
    for link in ["certplan.yaml", "folder/a.yaml"] {
        let path = project.write(link, "");
        fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink(&real, &path).expect("the folder is writable");
    }
    std::os::unix::fs::symlink(project.path().join("elsewhere"), project.path().join("linked"))
        .expect("the folder is writable");
    for (arguments, named) in [
        (&["fmt"][..], "certplan.yaml"),
        (&["fmt", "--check"], "certplan.yaml"),
        (&["promote", "le"], "certplan.yaml"),
        (&["fmt", "--config", "folder"], "folder/a.yaml"),
        (&["promote", "le", "--config", "folder/a.yaml"], "folder/a.yaml"),
        (&["fmt", "--config", "linked"], "linked"),
    ] {
        let run = project.certplan(arguments).expect(1);
        let expected = format!(
            "error: `{named}` is not a regular file: configurations are not read through links or devices\n"
        );
        assert_eq!(run.stderr, expected, "{arguments:?}");
    }
    assert_eq!(project.read("elsewhere/real.yaml"), text, "nothing was changed");
    for link in ["certplan.yaml", "folder/a.yaml"] {
        assert!(project.path().join(link).is_symlink(), "`{link}` is a link still");
    }
}

#[test]
fn without_credentials_and_network_a_plan_says_what_is_missing() {
    let project = Project::new();
    project.write(
        "certplan.yaml",
        &format!(
            "version: 1\nencryption: {{ recipients: [{}] }}\n\
             issuers: {{ ca: {{ acme: {{ directory: \"https://127.0.0.1:1/directory\", agree_tos: true }} }} }}\n\
             dns: {{ local: {{ rfc2136: {{ server: \"127.0.0.1:1\", tsig: {{ name: key, secret: {{ env: NO_SUCH_SECRET }} }} }} }} }}\n\
             certificates:\n  shop:\n    issuer: ca\n    names: [shop.example.test]\n",
            project.recipient()
        ),
    );
    check!(project.certplan(&["plan"]), @"
    1 error, and nothing else to do now.

    Warning: account/ca: the CA's directory could not be read: cannot connect for `GET https://[address]/directory`: Connection refused (os error 111); 1 certificate is planned without knowing its profiles and what an account needs

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `key.` is missing: environment variable `NO_SUCH_SECRET` is not set
    [exit code: 1]
    ");
    check!(project.certplan(&["apply", "--auto-approve"]), @"
    1 error, and nothing else to do now.

    Warning: account/ca: the CA's directory could not be read: cannot connect for `GET https://[address]/directory`: Connection refused (os error 111); 1 certificate is planned without knowing its profiles and what an account needs

    Error: certificate/shop: where the challenge for `shop.example.test` goes could not be found out: DNS provider `local` cannot tell whether it has a zone for `_acme-challenge.shop.example.test`: the secret of the TSIG key `key.` is missing: environment variable `NO_SUCH_SECRET` is not set
    [exit code: 1]
    ");
    assert!(!project.path().join(".certplan").exists(), "nothing was issued, so there is no state");
}

#[test]
fn nothing_to_do_is_quiet_and_quick() {
    let world = World::with_shop();
    let before = world.effects();
    let started = Instant::now();
    let run = world.project.certplan(&["apply", "--auto-approve"]);
    let took = started.elapsed();
    check!(run, @"
    No changes. The certificate is as it should be. The next renewal is that of certificate/shop, in [some] days ([time]).
    [exit code: 0]
    ");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(world.effects(), before);
    let run = world.project.certplan(&["apply", "--auto-approve", "--json"]).expect(0);
    assert_eq!(run.stderr, "");
    assert!(run.stdout.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{run}");
    let last: serde_json::Value = serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["type"], &last["done"], &last["failed"]),
        (&"apply_summary".into(), &0.into(), &0.into())
    );
    let run = world.project.certplan(&["plan", "--detailed-exitcode"]).expect(0);
    assert_eq!(run.stderr, "");
}

#[test]
fn an_apply_tells_its_story() {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]\n    deploy: [{ files: { directory: out } }]")]);
    let run = world.project.certplan(&["apply", "--auto-approve"]);
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
          + deployment/shop/files-shop: [folder]/out/shop

    Plan: 3 to add, 0 to change, 0 to remove.
    ------- stderr -------
    account/ca: account ready
    certificate/shop: starting
    certificate/shop: lease taken
    certificate/shop: key sealed
    certificate/shop: order created
    certificate/shop: challenges read
    certificate/shop: TXT records written
    certificate/shop: TXT records visible
    certificate/shop: names validated
    certificate/shop: finalizing
    certificate/shop: certificate issued
    deployment/shop/files-shop: deployed
    deployment/shop/files-shop: committed
    certificate/shop: TXT records removed
    certificate/shop: done, valid until [time]
    Apply complete: 1 certificate is as it should be.
    [exit code: 0]
    ");
    check!(world.project.certplan(&["show", "certificate/shop"]), @"
    certificate/shop
      current         [sha256]
      names           shop.example.test
      issuer          ca (CN=certplan sandbox intermediate E1 [tag], O=not trusted by anyone)
      serial          [id]
      valid           [time] to [time] ([some] days left)
      key             ecdsa-p256, sealed to [recipient]
      deployed        files-shop at [folder]/out/shop, [short] since [time]
    [exit code: 0]
    ");
    check!(world.project.certplan(&["state", "list"]), @"
    account/ca
    certificate/shop
    deployment/shop/files-shop
    [exit code: 0]
    ");
    let run = world.project.certplan(&["-q", "apply", "--auto-approve"]);
    assert_eq!(run.stderr, "", "quiet says only what went wrong");
}
