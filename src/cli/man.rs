use std::fs;
use std::path::PathBuf;

use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// Write man pages, one for each command, into a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder
    directory: PathBuf,
}

#[expect(clippy::disallowed_methods, reason = "the command's purpose is to write files where it is told")]
pub(crate) fn run(args: &Args, ui: Ui) -> Result<Exit, CliError> {
    fs::create_dir_all(&args.directory)
        .map_err(|error| CliError::new(format!("cannot make `{}`: {error}", args.directory.display())))?;
    clap_mangen::generate_to(super::command(), &args.directory).map_err(|error| {
        CliError::new(format!("cannot write into `{}`: {error}", args.directory.display()))
    })?;
    ui.say(&format!("Man pages are in {}", args.directory.display()));
    Ok(Exit::Success)
}
