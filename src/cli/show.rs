use std::path::Path;

use serde_json::json;

use crate::model::Address;
use crate::plan::SavedPlan;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project::Project;
use super::render::show;
use super::ui::Ui;

/// Show what state remembers, in full and without secrets; or a saved plan
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An address (certificate/shop, account/letsencrypt), or a file that `certplan plan --out` saved; everything when left out
    #[arg(value_name = "ADDRESS|PLANFILE")]
    what: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    if let Some(what) = &args.what
        && what.parse::<Address>().is_err()
    {
        return saved_plan(Path::new(what), args.json, ui);
    }
    let wanted = args.what.as_deref().map(str::parse::<Address>).transpose()?;
    let project = Project::load(global, ui)?;
    let snapshot = project.state().snapshot().await?;
    let shown = |address: &Address| match &wanted {
        None => true,
        Some(Address::Deployment(name, _)) => *address == Address::Certificate(name.clone()),
        Some(wanted) => wanted == address,
    };
    let now = edge::now();
    let mut texts = Vec::new();
    let mut objects = Vec::new();
    for (issuer, stored) in &snapshot.accounts {
        if shown(&Address::Account(issuer.clone())) {
            texts.push(show::account_text(issuer, &stored.content));
            objects.push(show::account_json(issuer, &stored.content));
        }
    }
    for (name, stored) in &snapshot.certificates {
        if shown(&Address::Certificate(name.clone())) {
            texts.push(show::certificate_text(name, &stored.content, now));
            objects.push(show::certificate_json(name, &stored.content, stored.revision(), stored.serial()));
        }
    }
    if let Some(wanted) = wanted {
        let is_known = match &wanted {
            Address::Deployment(name, target) => snapshot
                .certificates
                .get(name)
                .is_some_and(|stored| stored.content.deployments.contains_key(target)),
            Address::Account(_) | Address::Certificate(_) => !objects.is_empty(),
        };
        if !is_known {
            return Err(super::state::unknown(&wanted));
        }
    }
    if args.json {
        let document = json!({ "format_version": "1.0", "lineage": snapshot.lineage, "resources": objects });
        ui.data(&format!("{document:#}\n"))?;
    } else if texts.is_empty() {
        ui.say("State is empty: nothing was applied yet.");
    } else {
        ui.data(&texts.join("\n"))?;
    }
    Ok(Exit::Success)
}

fn saved_plan(path: &Path, json: bool, ui: Ui) -> Result<Exit, CliError> {
    let bytes = edge::read_file(path).map_err(|error| {
        error
            .with_help("give an address such as certificate/NAME, or a file that `certplan plan --out` saved")
    })?;
    let saved = SavedPlan::from_json(&bytes)
        .map_err(|error| CliError::new(format!("`{}`: {error}", path.display())))?;
    if json {
        ui.data(&saved.plan.to_json())?;
    } else {
        ui.data(&super::render::plan::document(&saved.plan, ui.colors_stdout()))?;
    }
    Ok(Exit::Success)
}
