use crate::config;
use crate::registry::BUILTIN;

use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// Print the JSON Schema of the configuration, for editors
///
/// With a YAML language server: `# yaml-language-server: $schema=certplan.schema.json` as the configuration's first line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, ui: Ui) -> Result<Exit, CliError> {
    ui.data(&format!("{:#}\n", config::schema(&BUILTIN)))?;
    Ok(Exit::Success)
}
