//! The command line: one command a file, each with its arguments and what it does.

mod apply;
mod args;
mod completions;
mod demo;
mod edge;
mod error;
mod exit;
mod format;
mod init;
mod key;
mod man;
mod overtaken;
mod plan;
mod planning;
mod project;
mod promote;
pub mod render;
mod renew;
mod sandbox;
mod schema;
mod show;
mod state;
mod tally;
mod ui;
mod validate;

use std::process::ExitCode;

use anstream::ColorChoice;
use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;
use clap::error::ErrorKind;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use args::Color;
use args::Global;
use error::CliError;
use exit::Exit;
use ui::Ui;

/// What certplan reads of the environment, beside the secrets that a configuration names.
const ENVIRONMENT: &str = "\
Environment:
  CERTPLAN_CONFIG
      what `--config` is when it is not given
  CERTPLAN_AGE_KEY_FILE
      file of the age identities that open sealed keys
  CERTPLAN_AGE_KEY
      an age identity itself, for CI; without either of both,
      ~/.config/certplan/identity.txt is read
  CERTPLAN_LOG
      what to log on stderr: `debug`, or `certplan=trace`
  NO_COLOR
      when set, no colour unless `--color always` asks for it
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
      proxies for CAs and HTTP APIs; DNS never goes through one";

/// Plans, issues, renews and deploys TLS certificates, declared in YAML
///
/// `certplan plan` shows what would change and why; `certplan apply` makes it so and verifies what is served. Run `apply` on a
/// schedule, and certificates renew by themselves.
///
/// Exit codes: 0 done or no changes, 1 error and nothing was done, 2 changes (with --detailed-exitcode), 3 the run finished and
/// some certificates failed, 4 what was reviewed is stale, 5 another run holds the lease, 6 deferred (with
/// --detailed-exitcode), 7 refused, 64 wrong usage, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "certplan", version, propagate_version = true, max_term_width = 100, after_long_help = ENVIRONMENT)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(apply::Args),
    Completions(completions::Args),
    Demo(demo::Args),
    Fmt(format::Args),
    Init(init::Args),
    #[command(subcommand)]
    Key(key::Command),
    Man(man::Args),
    Plan(plan::Args),
    Promote(promote::Args),
    Renew(renew::Args),
    Sandbox(sandbox::Args),
    Schema(schema::Args),
    Show(show::Args),
    #[command(subcommand)]
    State(state::Command),
    Validate(validate::Args),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let color = match cli.global.color {
        Color::Always => ColorChoice::Always,
        Color::Auto => ColorChoice::Auto,
        Color::Never => ColorChoice::Never,
    };
    let ui = Ui::new(color, cli.global.quiet);
    log();
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.error(&error);
            return error.exit().into();
        }
    };
    let outcome = runtime.block_on(run(cli, ui));
    // What was cancelled may still wait for a server: nothing of it matters any more.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            ui.error(&error);
            error.exit().into()
        }
    }
}

fn start() -> Result<Runtime, CliError> {
    edge::check_open_files()?;
    Runtime::new().map_err(|error| CliError::new(format!("cannot start: {error}")))
}

async fn run(cli: Cli, ui: Ui) -> Result<Exit, CliError> {
    let global = cli.global;
    match cli.command {
        Command::Apply(args) => apply::run(args, &global, ui).await,
        Command::Completions(args) => completions::run(&args, ui),
        Command::Demo(args) => demo::run(args, ui).await,
        Command::Fmt(args) => format::run(&args, &global, ui),
        Command::Init(args) => init::run(&args, &global, ui),
        Command::Key(command) => key::run(command, &global, ui).await,
        Command::Man(args) => man::run(&args, ui),
        Command::Plan(args) => plan::run(args, &global, ui).await,
        Command::Promote(args) => promote::run(&args, &global, ui),
        Command::Renew(args) => renew::run(args, &global, ui).await,
        Command::Sandbox(args) => sandbox::run(args, ui).await,
        Command::Schema(args) => schema::run(&args, ui),
        Command::Show(args) => show::run(args, &global, ui).await,
        Command::State(command) => state::run(command, &global, ui).await,
        Command::Validate(args) => validate::run(&args, &global, ui),
    }
}

/// Prints clap's message; help and version are no errors, everything else is wrong usage.
fn usage(error: &clap::Error) -> Exit {
    // Printing fails only when there is nowhere to print to.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Success,
        _ => Exit::Usage,
    }
}

/// Logs to stderr what `CERTPLAN_LOG` asks for: `debug`, or `certplan=trace,hyper=info`.
fn log() {
    let Some(filter) = edge::variable("CERTPLAN_LOG").and_then(|filter| filter.into_string().ok()) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

fn command() -> clap::Command {
    Cli::command()
}
