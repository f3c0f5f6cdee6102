use std::path::Path;

use crate::config;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project;
use super::ui::Ui;

/// Tidy the white space of the configuration; comments, order and meaning stay
///
/// Of a folder, every *.yaml and *.yml. Says of each file whether it was changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; exit with 1 when something would change
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let Some(paths) = project::files(&global.config)? else {
        one(&global.config, args.check, ui)?;
        return Ok(Exit::Success);
    };
    let mut exit = Exit::Success;
    for path in paths {
        if let Err(error) = one(&path, args.check, ui) {
            ui.error(&error);
            exit = Exit::Error;
        }
    }
    Ok(exit)
}

fn one(path: &Path, check: bool, ui: Ui) -> Result<(), CliError> {
    let before = project::text(path)?;
    let after = config::format(&before).ok_or_else(|| {
        CliError::new(format!("`{}` cannot be formatted", path.display()))
            .with_help("`certplan validate` shows why")
    })?;
    if after == before {
        ui.say(&format!("Already formatted: {}", path.display()));
        return Ok(());
    }
    if check {
        return Err(CliError::new(format!("`{}` is not formatted", path.display()))
            .with_help("`certplan fmt` formats it"));
    }
    edge::replace_file(path, after.as_bytes())?;
    ui.say(&format!("Formatted {}", path.display()));
    Ok(())
}
