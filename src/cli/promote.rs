use similar::TextDiff;

use crate::config;
use crate::model::Name;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project;
use super::ui::Ui;

/// Move an issuer from its CA's staging directory to production, in the configuration
///
/// Edits the file in place, comments and layout kept, and shows the edit. The next plan shows the reissue that follows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The issuer
    issuer: Name,
}

pub(crate) fn run(args: &Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let path = &global.config;
    if project::files(path)?.is_some() {
        return Err(CliError::usage(format!("`{}` is a folder", path.display()))
            .with_help("name the file that defines the issuer with `--config FILE`"));
    }
    let before = project::text(path)?;
    let after = config::promote(&before, args.issuer.as_str()).map_err(|error| {
        let failed = CliError::new(&error);
        match error.hint() {
            Some(hint) => failed.with_help(hint),
            None => failed,
        }
    })?;
    edge::replace_file(path, after.as_bytes())?;
    let shown = path.display().to_string();
    let diff = TextDiff::from_lines(&before, &after);
    ui.data(&diff.unified_diff().context_radius(1).header(&shown, &shown).to_string())?;
    ui.say(
        "\nThe certificates of this issuer are issued anew by the next apply: `certplan plan` shows them.",
    );
    Ok(Exit::Success)
}
