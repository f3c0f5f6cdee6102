use clap_complete::Shell;

use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, ui: Ui) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "certplan", &mut script);
    ui.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
