use std::process::Command;

use crate::project::Project;
use crate::project::Run;
use crate::world::check;

fn run(arguments: &[&str]) -> Run {
    Project::new().certplan(arguments)
}

/// The commands of the page of another command, as it lists them itself.
fn commands(page: &str) -> Vec<String> {
    let list = page.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let list = list.split_once("\n\n").map_or(list, |(list, _)| list);
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_first_page() {
    check!(run(&["-h"]), @"
    Plans, issues, renews and deploys TLS certificates, declared in YAML

    Usage: certplan [OPTIONS] <COMMAND>

    Commands:
      apply        Make it so: issue, renew, deploy and verify what the plan shows
      completions  Print a completion script for a shell
      demo         Run the main job on an embedded CA and DNS server, and show each step
      fmt          Tidy the white space of the configuration; comments, order and meaning stay
      init         Write a first configuration, and an age identity if there is none
      key          Take private keys out of state
      man          Write man pages, one for each command, into a folder
      plan         Show what would change, and why; changes nothing anywhere
      promote      Move an issuer from its CA's staging directory to production, in the configuration
      renew        Get a new certificate now, although none is due
      sandbox      Run an ACME CA and a DNS server on loopback, to rehearse a configuration against
      schema       Print the JSON Schema of the configuration, for editors
      show         Show what state remembers, in full and without secrets; or a saved plan
      state        Look at state, and change what certplan remembers
      validate     Check the configuration, without network and without credentials
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn without_a_command_the_page_is_shown_as_wrong_usage() {
    let run = run(&[]).expect(64);
    assert!(run.stdout.is_empty() && run.stderr.contains("Usage: certplan"), "{run}");
}

#[test]
fn every_command_has_a_page_that_says_what_it_does() {
    let project = Project::new();
    let first = project.certplan(&["--help"]).expect(0);
    let mut found = Vec::new();
    let mut open: Vec<Vec<String>> = commands(&first.stdout).into_iter().map(|name| vec![name]).collect();
    open.push(vec!["man".to_owned()]);
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        for flag in ["-h", "--help"] {
            arguments.push(flag);
            let page = project.certplan(&arguments).expect(0);
            assert!(page.stderr.is_empty(), "{page}");
            let first_line = page.stdout.lines().next().unwrap_or_default();
            assert!(first_line.len() > 10, "`{}` says nothing about itself: {page}", path.join(" "));
            // A summary is no sentence.
            assert!(flag == "--help" || !first_line.ends_with('.'), "{first_line}");
            for line in page.stdout.lines() {
                assert!(line.chars().count() <= 120, "`{}` is too wide: {line}", path.join(" "));
            }
            arguments.pop();
            if flag == "-h" {
                open.extend(commands(&page.stdout).into_iter().map(|name| {
                    let mut child = path.clone();
                    child.push(name);
                    child
                }));
            }
        }
        found.push(path.join(" "));
    }
    found.sort();
    insta::assert_snapshot!(found.join("\n"), @"
    apply
    completions
    demo
    fmt
    init
    key
    key export
    man
    man
    plan
    promote
    renew
    sandbox
    schema
    show
    state
    state list
    state mv
    state rm
    state show
    state unlock
    validate
    ");
}

#[test]
fn the_page_of_apply() {
    check!(run(&["apply", "-h"]), @"
    Make it so: issue, renew, deploy and verify what the plan shows

    Usage: certplan apply [OPTIONS] [PLANFILE]

    Arguments:
      [PLANFILE]  A plan that `certplan plan --out` saved

    Options:
          --replace <ADDRESS>       Ask for a new certificate, or to deploy the current one again,
                                    although nothing is due; repeatable
          --allow-remove <ADDRESS>  Allow to remove a certificate that still serves; repeatable
          --refresh [<BOOL>]        Look at targets, endpoints and the CA; `false` plans from the
                                    configuration and state alone [default: true] [possible values:
                                    true, false]
          --auto-approve            Apply without asking
          --json                    Print one JSON event a line instead of progress
          --parallelism <N>         How many requests may be in flight per CA [default: 32]
          --lock-timeout <TIME>     How long to wait for a lease that another run holds: 30s, 5m
                                    [default: 0s]
          --detailed-exitcode       Exit with 6 when something is deferred by a rate limit or after
                                    failures
          --continue                With a saved plan: apply what is not stale
      -h, --help                    Print help (see more with '--help')
      -V, --version                 Print version

    Selection:
          --address <GLOB>     Work only on addresses that match the glob: certificate/shop,
                               'deployment/*/edge'; repeatable
          --exclude <GLOB>     Leave out addresses that match the glob; repeatable
      -l, --label <KEY=VALUE>  Work only on certificates with the label; repeatable
          --only <CAUSE>       Plan only changes with the cause: what the configuration asks for, what
                               is due, or what drifted [possible values: config, drift, renewals]

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_init() {
    check!(run(&["init", "-h"]), @"
    Write a first configuration, and an age identity if there is none

    Usage: certplan init [OPTIONS] --dns <KIND> <NAME>...

    Arguments:
      <NAME>...  The names of the certificate: shop.example.com, '*.shop.example.com'

    Options:
          --dns <KIND>         The kind of DNS provider [possible values: powerdns, rfc2136]
          --to <DIR>           The folder to put the certificate into [default: ./out]
          --contact <ADDRESS>  E-mail address for the account at the CA
          --production         Begin with the CA's production directory
      -h, --help               Print help (see more with '--help')
      -V, --version            Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_plan() {
    check!(run(&["plan", "-h"]), @"
    Show what would change, and why; changes nothing anywhere

    Usage: certplan plan [OPTIONS]

    Options:
          --replace <ADDRESS>       Ask for a new certificate, or to deploy the current one again,
                                    although nothing is due; repeatable
          --allow-remove <ADDRESS>  Allow to remove a certificate that still serves; repeatable
          --refresh [<BOOL>]        Look at targets, endpoints and the CA; `false` plans from the
                                    configuration and state alone [default: true] [possible values:
                                    true, false]
          --detailed-exitcode       Exit with 2 when there are changes, and with 6 when something is
                                    deferred
          --out <FILE>              Save the plan, for `certplan apply FILE` to do exactly that or
                                    refuse
          --json                    Print the plan as JSON
      -h, --help                    Print help (see more with '--help')
      -V, --version                 Print version

    Selection:
          --address <GLOB>     Work only on addresses that match the glob: certificate/shop,
                               'deployment/*/edge'; repeatable
          --exclude <GLOB>     Leave out addresses that match the glob; repeatable
      -l, --label <KEY=VALUE>  Work only on certificates with the label; repeatable
          --only <CAUSE>       Plan only changes with the cause: what the configuration asks for, what
                               is due, or what drifted [possible values: config, drift, renewals]

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_renew() {
    check!(run(&["renew", "-h"]), @"
    Get a new certificate now, although none is due

    Usage: certplan renew [OPTIONS] <ADDRESS>...

    Arguments:
      <ADDRESS>...  The certificates: certificate/shop, or just shop

    Options:
          --auto-approve         Apply without asking
          --json                 Print one JSON event a line instead of progress
          --parallelism <N>      How many requests may be in flight per CA [default: 32]
          --lock-timeout <TIME>  How long to wait for a lease that another run holds: 30s, 5m [default:
                                 0s]
          --detailed-exitcode    Exit with 6 when something is deferred by a rate limit or after
                                 failures
      -h, --help                 Print help (see more with '--help')
      -V, --version              Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_sandbox() {
    check!(run(&["sandbox", "-h"]), @"
    Run an ACME CA and a DNS server on loopback, to rehearse a configuration against

    Usage: certplan sandbox [OPTIONS]

    Options:
          --directory <DIR>              Folder to keep keys, ports, accounts and zones in over a
                                         restart; without it nothing is kept
          --acme-port <PORT>             Port of the CA; 0 takes the folder's last one, or a free one
                                         [default: 0]
          --dns-port <PORT>              Port of the DNS server, UDP and TCP [default: 0]
          --management-port <PORT>       Port of the management endpoint, which tells the ledger
                                         [default: 0]
          --zone <NAME>                  A zone to be authoritative for; repeatable [default:
                                         example.test]
          --certificate-lifetime <TIME>  How long certificates are valid, whatever their profile says:
                                         90s, 24h, 30d
          --ari-window <WINDOW>          When to suggest renewal: `default`, `now` (as after an
                                         incident), `none`, or two fractions of the lifetime: 0.5-0.6
                                         [default: default]
          --bad-nonce-rate <PERCENT>     How many of a hundred good nonces to reject [default: 0]
          --rate-limit-rate <PERCENT>    How many of a hundred requests to answer with 429 [default: 0]
          --retry-after <TIME>           What `Retry-After` says with 429
          --validation-delay <TIME>      How long a validation waits before it begins [default: 0s]
          --ed25519                      Issue certificates for Ed25519 keys as well, which public CAs
                                         do not
          --eab-required                 Require an external account binding, and print one
          --seed <N>                     Decides which requests a rate hits: the same seed and requests
                                         give the same faults [default: 0]
      -h, --help                         Print help (see more with '--help')
      -V, --version                      Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_show() {
    check!(run(&["show", "-h"]), @"
    Show what state remembers, in full and without secrets; or a saved plan

    Usage: certplan show [OPTIONS] [ADDRESS|PLANFILE]

    Arguments:
      [ADDRESS|PLANFILE]  An address (certificate/shop, account/letsencrypt), or a file that `certplan
                          plan --out` saved; everything when left out

    Options:
          --json     Print JSON
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_pages_of_state() {
    check!(run(&["state", "-h"]), @"
    Look at state, and change what certplan remembers

    Usage: certplan state [OPTIONS] <COMMAND>

    Commands:
      list    List the addresses that state knows
      show    Show what state remembers; the same as `certplan show`
      rm      Forget a certificate or a deployment; the certificate and its targets stay as they are
      mv      Rename a certificate; the configuration needs the same rename, or `moved:` there does both
      unlock  Show who holds the lease of a certificate or an account, and break it after asking
      help    Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
    check!(run(&["state", "rm", "-h"]), @"
    Forget a certificate or a deployment; the certificate and its targets stay as they are

    Usage: certplan state rm [OPTIONS] <ADDRESS>

    Arguments:
      <ADDRESS>  The address

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
    check!(run(&["state", "mv", "-h"]), @"
    Rename a certificate; the configuration needs the same rename, or `moved:` there does both

    Usage: certplan state mv [OPTIONS] <FROM> <TO>

    Arguments:
      <FROM>  The address now
      <TO>    The address to be

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
    check!(run(&["state", "unlock", "-h"]), @"
    Show who holds the lease of a certificate or an account, and break it after asking

    Usage: certplan state unlock [OPTIONS] <ADDRESS>

    Arguments:
      <ADDRESS>  The address

    Options:
          --force    Break it without asking
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_page_of_key_export() {
    check!(run(&["key", "export", "-h"]), @"
    Write a certificate's private key, as PKCS#8 PEM: the way out when everything else fails

    Usage: certplan key export [OPTIONS] --out <FILE> <ADDRESS>

    Arguments:
      <ADDRESS>  The certificate: certificate/shop, or just shop

    Options:
          --out <FILE>  The file to write; `-` prints the key on stdout
      -h, --help        Print help (see more with '--help')
      -V, --version     Print version

    Global options:
          --config <PATH>  Configuration: a file, or a folder whose *.yaml and *.yml are merged [env:
                           CERTPLAN_CONFIG] [default: certplan.yaml]
          --color <WHEN>   When to use colour [default: auto] [possible values: always, auto, never]
      -q, --quiet          Say only what went wrong
    [exit code: 0]
    ");
}

#[test]
fn the_version_is_one_line() {
    let run = run(&["--version"]).expect(0);
    assert_eq!(run.stdout, format!("certplan {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_printed_for_every_shell_and_bash_takes_them() {
    let project = Project::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = project.certplan(&["completions", shell]).expect(0);
        assert!(run.stdout.contains("certplan") && run.stderr.is_empty(), "{shell}");
    }
    let script = project.write("complete.bash", &project.certplan(&["completions", "bash"]).stdout);
    let status = Command::new("bash").arg("-n").arg(script).status().expect("bash is there");
    assert!(status.success());
    let run = project.certplan(&["completions", "tcsh"]).expect(64);
    assert!(run.stderr.contains("possible values"), "{run}");
}

#[test]
fn the_manual_is_a_manual_page() {
    let project = Project::new();
    let _ = project.certplan(&["man", "pages"]).expect(0);
    assert!(project.read("pages/certplan.1").contains(".TH certplan 1"));
    assert!(project.read("pages/certplan-apply.1").contains("\\-\\-auto\\-approve"));
    assert!(project.read("pages/certplan.1").contains("certplan\\-man(1)"), "the page lists every command");
}

#[test]
fn the_first_page_names_every_variable_that_certplan_reads() {
    let page = run(&["--help"]).expect(0).stdout;
    for variable in [
        "CERTPLAN_CONFIG",
        "CERTPLAN_AGE_KEY_FILE",
        "CERTPLAN_AGE_KEY",
        "CERTPLAN_LOG",
        "NO_COLOR",
        "HTTPS_PROXY",
        "NO_PROXY",
    ] {
        assert!(page.contains(variable), "`{variable}` is not in:\n{page}");
    }
}

#[test]
fn every_flag_stands_under_the_heading_that_it_belongs_to() {
    let page = run(&["apply", "--help"]).expect(0).stdout;
    let under = |flag: &str| {
        let before = page.split(&format!(" {flag}")).next().expect("there is a text before");
        before.lines().rfind(|line| line.ends_with(':') && !line.starts_with(' ')).map(str::to_owned)
    };
    for (flag, heading) in [
        ("--auto-approve", "Options:"),
        ("--json", "Options:"),
        ("--refresh", "Options:"),
        ("--continue", "Options:"),
        ("--address", "Selection:"),
        ("--label", "Selection:"),
        ("--only", "Selection:"),
        ("--config", "Global options:"),
        ("--quiet", "Global options:"),
    ] {
        assert_eq!(under(flag).as_deref(), Some(heading), "{flag} in:\n{page}");
    }
}

#[test]
fn the_schema_is_a_json_schema() {
    let run = run(&["schema"]).expect(0);
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(schema["properties"]["certificates"].is_object(), "{schema:#}");
    assert!(run.stderr.is_empty());
}
