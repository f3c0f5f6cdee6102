use super::args::Global;
use super::error::CliError;
use super::exit::Exit;
use super::project;
use super::ui::Ui;

/// Check the configuration, without network and without credentials
///
/// Shows every problem of every file with its line and what to do about it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let loaded = project::load(global, ui)?;
    let certificates = loaded.desired.certificates.len();
    let plural = if certificates == 1 { "" } else { "s" };
    ui.say(&format!("The configuration is valid: {certificates} certificate{plural}."));
    Ok(Exit::Success)
}
