use crate::model::Address;
use crate::model::Name;

use super::apply;
use super::apply::Events;
use super::apply::WorkArgs;
use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::planning::PlanArgs;
use super::project::Project;
use super::ui::Ui;

/// Get a new certificate now, although none is due
///
/// Plans, shows and asks like apply. Counts against the CA's rate limits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The certificates: certificate/shop, or just shop
    #[arg(required = true, value_name = "ADDRESS", value_parser = address)]
    addresses: Vec<Address>,

    #[command(flatten)]
    work: WorkArgs,
}

pub(crate) async fn run(args: Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let events = args.work.events(ui);
    apply::told(renew(args, global, events.clone(), ui).await, events.as_deref())
}

async fn renew(args: Args, global: &Global, events: Events, ui: Ui) -> Result<Exit, CliError> {
    edge::start_random_generator();
    let project = Project::load_to_plan(global, ui)?;
    for address in &args.addresses {
        let is_known =
            address.certificate().is_some_and(|name| project.desired.certificates.contains_key(name));
        if !is_known {
            return Err(
                CliError::new(format!("`{address}` is not in the configuration")).with_help(known(&project))
            );
        }
    }
    let mut options = PlanArgs::renewing(&args.addresses).options()?;
    options.selection.addresses = args.addresses.iter().map(ToString::to_string).collect();
    apply::execute(&project, options, None, &args.work, events, ui).await
}

/// The certificates of the configuration, when they are few enough to be read.
fn known(project: &Project) -> String {
    let names: Vec<&str> = project.desired.certificates.keys().map(Name::as_str).collect();
    match names.len() {
        0..=10 => format!("the configuration has {}", names.join(", ")),
        count => format!("`certplan plan` shows the {count} certificates that there are"),
    }
}

/// Takes an address, or the bare name of a certificate.
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let address = if text.contains('/') { text.to_owned() } else { format!("certificate/{text}") };
    match address.parse() {
        Ok(address @ Address::Certificate(_)) => Ok(address),
        Ok(_) => Err("give the address of a certificate: certificate/NAME".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
