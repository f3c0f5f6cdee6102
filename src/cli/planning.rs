//! From a loaded configuration to a plan: what `plan`, `apply` and `renew` share.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use certplan_provider::Context;
use certplan_provider::DeployTarget;
use tokio_util::sync::CancellationToken;

use crate::acme::AcmeClient;
use crate::dns01::Authorities;
use crate::dns01::Client;
use crate::dns01::Exchange;
use crate::dns01::Lookup;
use crate::dns01::Poller;
use crate::dns01::Providers;
use crate::dns01::Resolver;
use crate::dns01::Sparing;
use crate::dns01::Surveyor;
use crate::model::Address;
use crate::model::AriRecord;
use crate::model::Desired;
use crate::model::Encryption;
use crate::model::Fact;
use crate::model::JournaledTxt;
use crate::model::Name;
use crate::model::NameSet;
use crate::model::Observed;
use crate::plan;
use crate::plan::Only;
use crate::plan::Plan;
use crate::plan::PlanInput;
use crate::plan::PlanOptions;
use crate::plan::Prior;
use crate::plan::PriorAccount;
use crate::plan::PriorCertificate;
use crate::refresh::Refresh;
use crate::state::Snapshot;

use super::args::SelectionArgs;
use super::edge;
use super::error::CliError;
use super::project::Project;

/// What decides which changes a plan has.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    selection: SelectionArgs,

    /// Plan only changes with the cause: what the configuration asks for, what is due, or what drifted
    #[arg(long, value_enum, value_name = "CAUSE", help_heading = "Selection")]
    only: Option<OnlyArg>,

    /// Ask for a new certificate, or to deploy the current one again, although nothing is due; repeatable
    #[arg(long, value_name = "ADDRESS")]
    replace: Vec<Address>,

    /// Allow to remove a certificate that still serves; repeatable
    #[arg(long, value_name = "ADDRESS")]
    allow_remove: Vec<Address>,

    /// Look at targets, endpoints and the CA; `false` plans from the configuration and state alone
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    refresh: bool,
}

/// Causes to plan only.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OnlyArg {
    /// What the configuration asks for
    Config,
    /// What reality lost
    Drift,
    /// What is due by time or by the CA
    Renewals,
}

impl PlanArgs {
    /// The arguments that ask for new certificates at these addresses and for nothing else.
    pub(crate) fn renewing(addresses: &[Address]) -> Self {
        Self { replace: addresses.to_vec(), refresh: true, ..Self::default() }
    }

    /// What the pure plan takes of them.
    pub(crate) fn options(&self) -> Result<PlanOptions, CliError> {
        Ok(PlanOptions {
            selection: self.selection.selection()?,
            only: self.only.map(|only| match only {
                OnlyArg::Config => Only::Config,
                OnlyArg::Drift => Only::Drift,
                OnlyArg::Renewals => Only::Renewals,
            }),
            replace: self.replace.clone(),
            allow_remove: self.allow_remove.clone(),
            refreshed: self.refresh,
        })
    }
}

/// The clients that a plan looks through.
pub(crate) struct Clients {
    /// A client per issuer.
    pub(crate) issuers: BTreeMap<Name, Arc<AcmeClient>>,
    /// The DNS providers.
    pub(crate) providers: Arc<Providers>,
    /// Looks up names for delegation.
    pub(crate) lookup: Arc<dyn Lookup>,
    /// Waits until values can be seen.
    pub(crate) poller: Arc<Poller>,
    /// The deploy targets.
    pub(crate) targets: BTreeMap<Name, Arc<dyn DeployTarget>>,
}

/// A plan, with what it was made from.
pub(crate) struct Planned {
    /// The plan.
    pub(crate) plan: Plan,
    /// The state's lineage; `None` when there is no state yet.
    pub(crate) lineage: Option<String>,
    /// Renewal windows that were asked for, to be remembered by an apply.
    pub(crate) ari: BTreeMap<Name, AriRecord>,
    /// The TXT values that open operations list, by operation.
    pub(crate) journaled: BTreeMap<String, Vec<JournaledTxt>>,
}

/// Reads state, looks at the world and plans. Writes nothing anywhere.
pub(crate) async fn plan(
    project: &Project,
    clients: &Clients,
    options: &PlanOptions,
    context: &Context,
) -> Result<Planned, CliError> {
    let snapshot = project.outline().await?;
    let prior = prior(snapshot, project.desired.encryption.as_ref());
    let mut observed = Observed::default();
    let refresh = Refresh {
        desired: &project.desired,
        records: prior.certificates.iter().map(|(name, known)| (name, known.record.as_ref())).collect(),
        issuers: &clients.issuers,
        providers: &clients.providers,
        lookup: clients.lookup.as_ref(),
        targets: &clients.targets,
        context,
    };
    if options.refreshed {
        observed = refresh.observe(|name| selected(project, options, name)).await;
    }
    // What issuing needs is looked at only where something is to be issued: with the CA down and nothing due, a plan works.
    // What is seen there may make more of it due.
    let mut prepared = NameSet::new();
    let planned = loop {
        let input = PlanInput {
            desired: &project.desired,
            prior: &prior,
            observed: &observed,
            now: context.now,
            options,
        };
        let planned = plan::plan(&input);
        let (issuers, names) = to_issue(&planned, &project.desired);
        if !options.refreshed || names.is_subset(&prepared) {
            break planned;
        }
        let new = names.difference(&prepared).cloned().collect();
        refresh.prepare(&mut observed, &issuers, &new).await;
        prepared.extend(names);
    };
    let ari = fresh_windows(&prior, &observed);
    let operations = prior.certificates.values().filter_map(|known| known.record.operation.as_ref());
    let journaled = operations.map(|operation| (operation.id.clone(), operation.txt.clone())).collect();
    let lineage = prior.lineage.clone();
    // To free the records of a large fleet takes as long as to plan it, and nothing waits for it.
    tokio::task::spawn_blocking(move || drop((prior, observed)));
    Ok(Planned { plan: planned, lineage, ari, journaled })
}

fn selected(project: &Project, options: &PlanOptions, name: &Name) -> bool {
    let none = BTreeMap::new();
    let labels = project.desired.certificates.get(name).map_or(&none, |certificate| &certificate.labels);
    options.selection.is_all()
        || options.selection.matches(&Address::Certificate(name.clone()), labels)
        || options.selection.addresses.iter().any(|glob| glob.starts_with("deployment/"))
}

/// What the plan knows of the past. It takes the records over: a large fleet's fill much memory.
fn prior(snapshot: Snapshot, encryption: Option<&Encryption>) -> Prior {
    let certificates = snapshot.certificates.into_iter().map(|(name, stored)| {
        let revision = stored.revision();
        (name, PriorCertificate::new(stored.content, revision, encryption))
    });
    let accounts = snapshot.accounts.into_iter().map(|(issuer, stored)| {
        let revision = stored.revision();
        (issuer, PriorAccount { record: *stored.content, revision })
    });
    Prior {
        lineage: snapshot.lineage,
        certificates: certificates.collect(),
        accounts: accounts.collect(),
        foreign_issuances: snapshot.elsewhere.into_iter().flat_map(|usage| usage.issuances).collect(),
    }
}

fn to_issue(plan: &Plan, desired: &Desired) -> (BTreeSet<Name>, NameSet) {
    let resumed = plan.resumed().into_iter().filter_map(|name| desired.certificates.get(name));
    (
        plan.issues().map(|step| step.issuer.clone()).chain(plan.accounts()).collect(),
        plan.issues()
            .flat_map(|step| &step.names)
            .chain(resumed.flat_map(|wanted| &wanted.names))
            .cloned()
            .collect(),
    )
}

/// The windows that this refresh asked the CA for, and that state does not have yet.
fn fresh_windows(prior: &Prior, observed: &Observed) -> BTreeMap<Name, AriRecord> {
    let fresh = observed.ari.iter().filter_map(|(name, fact)| {
        let Fact::Present(window) = fact else { return None };
        let known = prior.certificates.get(name).and_then(|known| known.record.ari.as_ref());
        (known != Some(window)).then(|| (name.clone(), window.clone()))
    });
    fresh.collect()
}

impl Project {
    /// Builds what a plan looks through. Opens no connection and resolves no credential.
    pub(crate) fn clients(
        &self,
        parallelism: usize,
        cancel: &CancellationToken,
    ) -> Result<Clients, CliError> {
        let providers = Arc::new(self.providers()?);
        let resolvers = edge::resolvers();
        let exchange: Arc<dyn Exchange> = Arc::new(Sparing::new(Client::default()));
        let surveyor: Arc<dyn Surveyor> = Arc::new(Authorities::new(Arc::clone(&exchange)));
        Ok(Clients {
            issuers: self.issuers(parallelism, cancel)?,
            lookup: Arc::new(Resolver::new(Arc::clone(&exchange), Arc::clone(&surveyor), resolvers.clone())),
            poller: Arc::new(Poller::new(Arc::clone(&providers), exchange, surveyor, resolvers)),
            providers,
            targets: self.targets()?,
        })
    }
}
