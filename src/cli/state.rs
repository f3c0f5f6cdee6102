use std::time::Duration;

use serde_json::json;

use crate::model::Address;
use crate::model::CertificateRecord;
use crate::model::Name;
use crate::state::Lease;
use crate::state::LeaseKey;
use crate::state::State;
use crate::state::StateError;
use crate::state::Stored;

use super::args::Global;
use super::error::CliError;
use super::exit::Exit;
use super::project::LEASE;
use super::project::Project;
use super::show;
use super::ui::Ui;

/// Look at state, and change what certplan remembers
///
/// None of these touches a CA, a DNS provider or a target.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the addresses that state knows
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what state remembers; the same as `certplan show`
    Show(show::Args),
    /// Forget a certificate or a deployment; the certificate and its targets stay as they are
    ///
    /// A forgotten certificate is kept in the archive, for its private key is there.
    Rm {
        /// The address
        address: Address,
    },
    /// Rename a certificate; the configuration needs the same rename, or `moved:` there does both
    Mv {
        /// The address now
        from: Address,
        /// The address to be
        to: Address,
    },
    /// Show who holds the lease of a certificate or an account, and break it after asking
    ///
    /// For a run that is surely dead. One that still works finds out within 20 seconds that its lease is broken, and starts
    /// nothing from then on; until then it goes on beside the next run. Their writes to state cannot undo each other's.
    Unlock {
        /// The address
        address: Address,

        /// Break it without asking
        #[arg(long)]
        force: bool,
    },
}

pub(crate) async fn run(command: Command, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    match command {
        Command::List { json } => list(global, json, ui).await,
        Command::Show(args) => show::run(args, global, ui).await,
        Command::Rm { address } => remove(global, &address, ui).await,
        Command::Mv { from, to } => rename(global, &from, &to, ui).await,
        Command::Unlock { address, force } => unlock(global, &address, force, ui).await,
    }
}

async fn list(global: &Global, json: bool, ui: Ui) -> Result<Exit, CliError> {
    let snapshot = Project::load(global, ui)?.state().snapshot().await?;
    let mut addresses: Vec<Address> =
        snapshot.accounts.keys().map(|issuer| Address::Account(issuer.clone())).collect();
    for (name, stored) in &snapshot.certificates {
        addresses.push(Address::Certificate(name.clone()));
        let targets = stored.content.deployments.keys();
        addresses.extend(targets.map(|target| Address::Deployment(name.clone(), target.clone())));
    }
    addresses.sort();
    if json {
        ui.data(&format!("{:#}\n", json!({ "format_version": "1.0", "addresses": addresses })))?;
    } else {
        let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        ui.data(&lines)?;
    }
    Ok(Exit::Success)
}

async fn remove(global: &Global, address: &Address, ui: Ui) -> Result<Exit, CliError> {
    let project = Project::load(global, ui)?;
    let state = project.state();
    match address {
        Address::Account(_) => {
            return Err(CliError::new(
                "an account is not forgotten: its key would be lost, and with it every order",
            )
            .with_help(
                "remove the issuer from the configuration; its account stays in state for when it comes back",
            ));
        }
        Address::Certificate(name) => {
            let (lease, stored) = leased(&project, &state, name, address).await?;
            if stored.content.operation.is_some() {
                lease.release().await?;
                return Err(CliError::new(format!(
                    "`{address}` has an open operation, which would leave what it made"
                ))
                .with_help("`certplan apply` finishes or abandons it"));
            }
            state.archive_certificate(name, stored, super::edge::now()).await?;
            lease.release().await?;
            ui.say(&format!(
                "Forgotten: {address} (kept in the archive; nothing was removed from any target)"
            ));
        }
        Address::Deployment(name, target) => {
            let (lease, mut stored) = leased(&project, &state, name, address).await?;
            if stored.content.deployments.remove(target).is_none() {
                lease.release().await?;
                return Err(unknown(address));
            }
            state.save_certificate(name, &mut stored, crate::state::Revise::Bump).await?;
            lease.release().await?;
            ui.say(&format!("Forgotten: {address} (the target was not touched)"));
        }
    }
    Ok(Exit::Success)
}

async fn rename(global: &Global, from: &Address, to: &Address, ui: Ui) -> Result<Exit, CliError> {
    let (Address::Certificate(from), Address::Certificate(to)) = (from, to) else {
        return Err(CliError::usage(
            "only certificates are renamed: `certplan state mv certificate/OLD certificate/NEW`",
        ));
    };
    if from == to {
        return Err(CliError::usage(format!("both names are the same: `certificate/{from}`")));
    }
    let project = Project::load(global, ui)?;
    let state = project.state();
    let (lease, mut stored) = leased(&project, &state, from, &Address::Certificate(from.clone())).await?;
    if stored.content.operation.is_some() {
        lease.release().await?;
        return Err(CliError::new(format!("`certificate/{from}` has an open operation"))
            .with_help("`certplan apply` finishes or abandons it"));
    }
    stored.content.formerly.push(from.clone());
    let renamed = state.rename_certificate(from, to, stored).await;
    lease.release().await?;
    if matches!(renamed, Err(StateError::Conflict { .. })) && state.certificate(to).await?.is_some() {
        return Err(CliError::new(format!("`certificate/{to}` is in state already"))
            .with_help("choose another name, or forget that one: `certplan state rm`"));
    }
    renamed?;
    ui.say(&format!("Renamed: certificate/{from} is certificate/{to} now"));
    Ok(Exit::Success)
}

async fn unlock(global: &Global, address: &Address, force: bool, ui: Ui) -> Result<Exit, CliError> {
    let project = Project::load(global, ui)?;
    let key = match address {
        Address::Account(issuer) => LeaseKey::for_account(issuer),
        Address::Certificate(name) | Address::Deployment(name, _) => lease_of(&project, name),
    };
    let leases = project.leases();
    let Some(holder) = leases.holder_of(&key).await? else {
        ui.say(&format!("Nobody holds the lease of {address}."));
        return Ok(Exit::Success);
    };
    ui.alert(&format!(
        "The lease of {address} is held by {}.",
        holder.holder.as_ref().map_or_else(|| "somebody unknown".to_owned(), ToString::to_string)
    ));
    // A holder learns of it when it moves its lease the next time.
    let notice = (LEASE / 3).as_secs();
    if !force {
        match ui.ask(&format!(
            "Break it? A run that still works there finds that out within {notice} s, and goes on until then. \
             Only \"yes\" is accepted: "
        ))? {
            Some(answer) if answer == "yes" => {}
            Some(_) => return Err(CliError::new("the lease stays")),
            None => {
                return Err(CliError::new("there is no terminal to ask on; the lease stays")
                    .with_help("`--force` breaks it without asking"));
            }
        }
    }
    leases.break_lease(key.object()).await?;
    ui.say(&format!(
        "The lease of {address} is broken. A run that still works there finds that out within {notice} s."
    ));
    Ok(Exit::Success)
}

/// Reads a certificate's record under its lease, which a record that is not there does not need.
async fn leased(
    project: &Project,
    state: &State,
    name: &Name,
    address: &Address,
) -> Result<(Lease, Stored<CertificateRecord>), CliError> {
    known(state.certificate(name).await?, address)?;
    let lease = project.leases().acquire(&lease_of(project, name), Duration::ZERO).await?;
    match known(state.certificate(name).await?, address) {
        Ok(stored) => Ok((lease, stored)),
        Err(error) => {
            lease.release().await?;
            Err(error)
        }
    }
}

fn lease_of(project: &Project, name: &Name) -> LeaseKey {
    match project.desired.certificates.get(name) {
        Some(desired) => LeaseKey::for_names(&desired.issuer, &desired.names, desired.profile.as_deref()),
        None => LeaseKey::for_certificate(&project.desired.project, name),
    }
}

fn known<T>(found: Option<T>, address: &Address) -> Result<T, CliError> {
    found.ok_or_else(|| unknown(address))
}

pub(super) fn unknown(address: &Address) -> CliError {
    CliError::new(format!("state knows no `{address}`"))
        .with_help("`certplan state list` shows what there is")
}
