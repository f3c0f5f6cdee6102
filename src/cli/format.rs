use crate::config;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project;
use super::ui::Ui;

/// Tidy the white space of the configuration; comments, order and meaning stay
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; exit with 1 when something would change
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let path = &global.config;
    if path.is_dir() {
        return Err(CliError::usage(format!("`{}` is a folder", path.display()))
            .with_help("name one of its files with `--config FILE`"));
    }
    let before = project::text(path)?;
    let after = config::format(&before).ok_or_else(|| {
        CliError::new(format!("`{}` cannot be formatted", path.display()))
            .with_help("`certplan validate` shows why")
    })?;
    if after == before {
        return Ok(Exit::Success);
    }
    if args.check {
        return Err(CliError::new(format!("`{}` is not formatted", path.display()))
            .with_help("`certplan fmt` does it"));
    }
    edge::replace_file(path, after.as_bytes())?;
    ui.say(&format!("Formatted {}", path.display()));
    Ok(Exit::Success)
}
