//! The main job against the embedded sandbox, each command with its real output.

mod web;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use secrecy::ExposeSecret;
use tokio::process::Command;

use crate::sandbox::Faults;
use crate::sandbox::Sandbox;
use crate::sandbox::SandboxOptions;
use crate::sandbox::ZoneOptions;
use crate::state::generate_identity;

use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// How long the demo's certificates live: short enough to see one renewed.
const LIFETIME: Duration = Duration::from_secs(16);

/// Run the main job on an embedded CA and DNS server, and show each step
///
/// Starts an ACME CA, a DNS server and a small web server on loopback, writes a configuration into a new folder, and runs
/// certplan on it: plan, apply, a plan without changes, and the renewal that is due some seconds later. Needs no privileges
/// and no network, and leaves the folder for you to go on playing with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder to work in; must be new or empty [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, ui: Ui) -> Result<Exit, CliError> {
    let folder = prepare(args.directory)?;
    let sandbox = Sandbox::start(options(&folder)?).await?;
    let live = folder.join("live");
    let web = web::serve(live.join("shop"))
        .await
        .map_err(|error| CliError::new(format!("the demo's web server cannot listen: {error}")))?;
    write_project(&folder, &sandbox, web)?;
    let demo = Demo { folder, ui };
    ui.data(&format!(
        "An ACME CA ({}), a DNS server ({}) and a web server ({web}) are up, all on loopback.\nThe folder is {}\n\n",
        sandbox.directory_url(),
        sandbox.dns_address(),
        demo.folder.display()
    ))?;
    ui.data(&format!("$ cat certplan.yaml\n{}\n", read(&demo.folder.join("certplan.yaml"))?))?;
    demo.certplan(&["validate"], &[0]).await?;
    demo.certplan(&["plan"], &[0]).await?;
    let issued = Instant::now();
    demo.certplan(&["apply", "--auto-approve"], &[0]).await?;
    demo.certplan(&["plan", "--detailed-exitcode"], &[0]).await?;
    demo.certplan(&["show", "certificate/shop"], &[0]).await?;
    let due = issued + LIFETIME / 2 + Duration::from_secs(1);
    ui.data("The certificates here live for seconds. Half a lifetime later, the schedule renews:\n\n")?;
    tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    demo.certplan(&["plan", "--detailed-exitcode"], &[2]).await?;
    demo.certplan(&["apply", "--auto-approve"], &[0]).await?;
    forget_web(&demo.folder, web)?;
    ui.data(&format!(
        "That is the main job. The web server ends with the demo, so `verify` was taken out of certplan.yaml.\n\n\
         To go on, start the sandbox again in one terminal:\n\n    cd {0}\n    {1} sandbox --directory sandbox\n\n\
         and use certplan in another:\n\n    cd {0}\n    . ./environment\n    {1} plan\n",
        demo.folder.display(),
        program()?.display()
    ))?;
    sandbox.shutdown().await?;
    Ok(Exit::Success)
}

struct Demo {
    folder: PathBuf,
    ui: Ui,
}

impl Demo {
    /// Runs certplan as a user would, and shows what it prints.
    async fn certplan(&self, arguments: &[&str], expected: &[i32]) -> Result<(), CliError> {
        // Both streams into one pipe, so that lines come in the order in which they were written.
        let (mut reader, writer) = std::io::pipe()?;
        let mut command = Command::new(program()?);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("CERTPLAN_AGE_KEY_FILE", self.folder.join("identity.txt"))
            .env("DEMO_TSIG_SECRET", read(&self.folder.join("tsig-secret"))?.trim())
            .env_remove("CERTPLAN_CONFIG")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child =
            command.spawn().map_err(|error| CliError::new(format!("certplan cannot run itself: {error}")))?;
        // The command holds the pipe's other end too: reading would never come to an end.
        drop(command);
        self.ui.data(&format!("$ certplan {}\n", arguments.join(" ")))?;
        let ui = self.ui;
        tokio::task::spawn_blocking(move || show(&mut reader, ui)).await??;
        let status = child.wait().await?;
        self.ui.data("\n")?;
        match status.code() {
            Some(code) if expected.contains(&code) => Ok(()),
            code => Err(CliError::new(format!("`certplan {}` ended with {code:?}", arguments.join(" ")))),
        }
    }
}

/// Shows what a command prints while it prints it.
fn show(reader: &mut impl Read, ui: Ui) -> Result<(), CliError> {
    let mut output = BufReader::new(reader);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        ui.data(&String::from_utf8_lossy(&line))?;
        line.clear();
    }
    Ok(())
}

fn program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| CliError::new(format!("certplan does not find itself: {error}")))
}

#[expect(clippy::disallowed_methods, reason = "the demo makes its own folder")]
fn prepare(directory: Option<PathBuf>) -> Result<PathBuf, CliError> {
    let Some(directory) = directory else {
        let folder = tempfile::Builder::new().prefix("certplan-demo-").tempdir()?;
        return Ok(folder.keep());
    };
    fs::create_dir_all(&directory)
        .and_then(|()| fs::read_dir(&directory))
        .map_err(|error| CliError::new(format!("cannot use `{}`: {error}", directory.display())))?
        .next()
        .map_or(Ok(()), |_| {
            Err(CliError::new(format!("`{}` is not empty", directory.display()))
                .with_help("give the demo a new folder with `--directory`"))
        })?;
    directory.canonicalize().map_err(CliError::from)
}

fn options(folder: &Path) -> Result<SandboxOptions, CliError> {
    Ok(SandboxOptions {
        zones: vec![ZoneOptions::new("example.test".parse()?)],
        folder: Some(folder.join("sandbox")),
        faults: Faults { certificate_lifetime: Some(LIFETIME), ..Faults::default() },
        ..SandboxOptions::default()
    })
}

#[expect(clippy::disallowed_methods, reason = "the demo fills its own folder")]
fn write_project(folder: &Path, sandbox: &Sandbox, web: SocketAddr) -> Result<(), CliError> {
    let write = |name: &str, text: &str, mode: u32| -> Result<(), CliError> {
        let path = folder.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|error| CliError::new(format!("cannot write `{}`: {error}", path.display())))
    };
    let identity = generate_identity();
    let key = sandbox.tsig_keys().first().ok_or_else(|| CliError::new("the sandbox has no TSIG key"))?;
    write("identity.txt", identity.text.expose_secret(), 0o600)?;
    write("tsig-secret", &format!("{}\n", key.secret), 0o600)?;
    write("sandbox-root.pem", &sandbox.ca_bundle_pem(), 0o644)?;
    write(
        "environment",
        "export CERTPLAN_AGE_KEY_FILE=\"$PWD/identity.txt\"\nexport DEMO_TSIG_SECRET=\"$(cat tsig-secret)\"\n",
        0o644,
    )?;
    let config = format!(
        "version: 1\n\
         project: demo\n\n\
         encryption:\n  recipients: [{recipient}]\n\n\
         issuers:\n  sandbox:\n    acme:\n      directory: {directory}\n      ca_bundle: sandbox-root.pem\n      \
         contact: [ops@example.test]\n      agree_tos: true\n\n\
         dns:\n  local:\n    rfc2136:\n      server: {dns}\n      tsig: {{ name: {key_name}, algorithm: {algorithm}, secret: {{ env: DEMO_TSIG_SECRET }} }}\n    \
         propagation: {{ resolvers: [\"{dns}\"] }}\n\n\
         targets:\n  web: {{ files: {{ directory: live, verify: {{ tls: \"{web}\" }} }} }}\n\n\
         defaults: {{ issuer: sandbox }}\n\n\
         certificates:\n  shop:\n    names: [shop.example.test, \"*.shop.example.test\"]\n    deploy: [{{ target: web }}]\n",
        recipient = identity.recipient,
        directory = sandbox.directory_url(),
        dns = sandbox.dns_address(),
        key_name = key.name,
        algorithm = key.algorithm,
    );
    write("certplan.yaml", &config, 0o644)
}

/// Takes the endpoint out of the configuration: without the demo nothing listens there, and every apply would roll back.
#[expect(clippy::disallowed_methods, reason = "the demo edits its own folder")]
fn forget_web(folder: &Path, web: SocketAddr) -> Result<(), CliError> {
    let path = folder.join("certplan.yaml");
    let text = read(&path)?.replace(&format!(", verify: {{ tls: \"{web}\" }}"), "");
    fs::write(&path, text)
        .map_err(|error| CliError::new(format!("cannot write `{}`: {error}", path.display())))
}

#[expect(clippy::disallowed_methods, reason = "the demo reads back what it wrote")]
fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path)
        .map_err(|error| CliError::new(format!("cannot read `{}`: {error}", path.display())))
}
