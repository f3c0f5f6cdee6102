use std::path::Path;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::plan::Plan;
use crate::plan::PlanDocument;
use crate::plan::SavedPlan;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::planning;
use super::planning::PlanArgs;
use super::project::Project;
use super::render;
use super::ui::Ui;

/// Show what would change, and why; changes nothing anywhere
///
/// Compares the configuration with state, with what targets hold and endpoints serve, and with the CA's renewal windows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plan: PlanArgs,

    /// Exit with 2 when there are changes, and with 6 when something is deferred
    #[arg(long)]
    detailed_exitcode: bool,

    /// Save the plan, for `certplan apply FILE` to do exactly that or refuse
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let project = Project::load_to_plan(global, ui)?;
    let options = args.plan.options()?;
    if let Some(path) = &args.out {
        check_out(path)?;
    }
    let cancel = CancellationToken::new();
    let clients = project.clients(super::apply::PARALLELISM, &cancel)?;
    let context = project.context(cancel);
    let planned = planning::plan(&project, &clients, &options, &context).await?;
    if args.json {
        ui.data(&PlanDocument::from(&planned.plan).to_json())?;
    } else {
        ui.data(&render::plan::text(&planned.plan, ui.colors_stdout()))?;
    }
    if let Some(path) = &args.out {
        edge::write_file(path, SavedPlan::new(&planned.plan, &options, None).to_json().as_bytes())?;
        if !args.json {
            ui.say(&format!(
                "The plan is saved. To apply exactly this:\n\n    certplan apply {}\n",
                path.display()
            ));
        }
    }
    Ok(exit(&planned.plan, args.detailed_exitcode))
}

/// Refuses to write over what is no saved plan: the configuration, or an identity without which nothing can be opened.
fn check_out(path: &Path) -> Result<(), CliError> {
    let is_there = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
    if is_there && !SavedPlan::is_one(&edge::read_file(path)?) {
        return Err(CliError::new(format!("`{}` is there and is no saved plan", path.display()))
            .with_help("save the plan under another name, or move the file away"));
    }
    Ok(())
}

/// The exit code of a plan.
pub(crate) fn exit(plan: &Plan, detailed: bool) -> Exit {
    use crate::plan::ExitClass;
    match plan.exit_class() {
        ExitClass::Error => Exit::Error,
        ExitClass::Refused => Exit::Refused,
        ExitClass::Changes if detailed => Exit::Changes,
        ExitClass::Deferred if detailed => Exit::Deferred,
        _ => Exit::Success,
    }
}
