use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::apply::ApplyError;
use crate::apply::ApplyOptions;
use crate::apply::Outcome;
use crate::apply::Reporter;
use crate::apply::World;
use crate::config;
use crate::dns01::ZoneWriters;
use crate::model::Address;
use crate::plan::ExitClass;
use crate::plan::Plan;
use crate::plan::SavedPlan;
use crate::plan::verify;
use crate::state::LeaseError;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::overtaken::overtaken;
use super::overtaken::plan_again;
use super::planning;
use super::planning::Clients;
use super::planning::PlanArgs;
use super::planning::Planned;
use super::project::Project;
use super::render;
use super::render::progress::JsonLines;
use super::render::progress::Lines;
use super::render::progress::Live;
use super::tally::Tally;
use super::ui::Ui;

/// How many requests may be in flight per CA.
pub(crate) const PARALLELISM: usize = 32;

/// Make it so: issue, renew, deploy and verify what the plan shows
///
/// Plans first, shows the plan and asks. With a saved plan, does exactly what was reviewed: an address that changed since is
/// stale and refused. What an interrupted run left is resumed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A plan that `certplan plan --out` saved
    #[arg(value_name = "PLANFILE", conflicts_with_all = ["address", "exclude", "labels", "only", "replace"])]
    saved: Option<PathBuf>,

    #[command(flatten)]
    plan: PlanArgs,

    #[command(flatten)]
    work: WorkArgs,

    /// With a saved plan: apply what is not stale
    #[arg(long = "continue", requires = "saved")]
    go_on: bool,
}

/// How to go about the work.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WorkArgs {
    /// Apply without asking
    #[arg(long)]
    auto_approve: bool,

    /// Print one JSON event a line instead of progress
    #[arg(long)]
    json: bool,

    /// How many requests may be in flight per CA
    #[arg(long, value_name = "N", default_value_t = PARALLELISM, value_parser = parallelism)]
    parallelism: usize,

    /// How long to wait for a lease that another run holds: 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    lock_timeout: Duration,

    /// Exit with 6 when something is deferred by a rate limit or after failures
    #[arg(long)]
    detailed_exitcode: bool,
}

impl WorkArgs {
    /// Events, where they were asked for.
    pub(crate) fn events(&self, ui: Ui) -> Events {
        self.json.then(|| Arc::new(JsonLines::new(ui, edge::now)))
    }
}

/// Where events go, if anywhere.
pub(crate) type Events = Option<Arc<JsonLines>>;

pub(crate) async fn run(args: Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let events = args.work.events(ui);
    told(apply(args, global, events.clone(), ui).await, events.as_deref())
}

/// Tells what a command failed with as an event as well: who reads them reads nothing else.
pub(crate) fn told(result: Result<Exit, CliError>, events: Option<&JsonLines>) -> Result<Exit, CliError> {
    if let (Err(error), Some(events)) = (&result, events) {
        events.error(error);
    }
    result
}

async fn apply(args: Args, global: &Global, events: Events, ui: Ui) -> Result<Exit, CliError> {
    edge::start_random_generator();
    let project = Project::load_to_plan(global, ui)?;
    let saved = match &args.saved {
        Some(path) => Some(SavedPlan::from_json(&edge::read_file(path)?).map_err(|error| {
            CliError::new(format!("`{}`: {error}", path.display()))
                .with_help("save a plan with `certplan plan --out FILE`")
        })?),
        None => None,
    };
    let mut options = args.plan.options()?;
    if let Some(saved) = &saved {
        if saved.is_expired(edge::now()) {
            return Err(CliError::new("the saved plan has expired")
                .with_help("plan and review again")
                .with_exit(Exit::Stale));
        }
        options = saved.options(&options);
    }
    execute(&project, options, saved.as_ref().map(|saved| (saved, args.go_on)), &args.work, events, ui).await
}

/// Plans, asks and applies: what `apply` and `renew` do.
pub(crate) async fn execute(
    project: &Project,
    options: crate::plan::PlanOptions,
    reviewed: Option<(&SavedPlan, bool)>,
    args: &WorkArgs,
    lines: Events,
    ui: Ui,
) -> Result<Exit, CliError> {
    let cancel = CancellationToken::new();
    let clients = project.clients(args.parallelism, &cancel)?;
    let context = project.context(cancel.clone());
    let mut planned = planning::plan(project, &clients, &options, &context).await?;
    let mut stale = false;
    if let Some((saved, go_on)) = reviewed {
        let staleness = verify(saved, &planned.plan);
        stale = !staleness.is_empty();
        for stale in &staleness {
            ui.alert(&format!("stale: {}: {}", stale.address, stale.cause));
        }
        if stale && !go_on {
            return Err(CliError::new("the saved plan is stale; nothing was applied")
                .with_help("plan and review again, or apply what is not stale with `--continue`")
                .with_exit(Exit::Stale));
        }
        saved.restrict(&mut planned.plan);
    }
    match &lines {
        Some(lines) => lines.plan(&planned.plan),
        None => ui.data(&render::plan::text(&planned.plan, ui.colors_stdout()))?,
    }
    // What is wrong with the whole plan, which has told it, stops it; what is wrong with one address stops that one.
    if planned.plan.errors.iter().any(|error| error.address.is_none()) {
        return Err(CliError::new("nothing was applied: the plan has an error that concerns all of it"));
    }
    if !planned.plan.is_empty() && reviewed.is_none() && !args.auto_approve {
        if args.json {
            return Err(CliError::new("events show no plan that could be approved; nothing was applied")
                .with_help("with `--json`, apply a saved plan, or without asking with `--auto-approve`"));
        }
        approve(ui)?;
    }
    interruptible(cancel.clone(), ui);
    let mut outcome = perform(project, clients, &planned, context, args, lines.clone(), ui).await?;
    if !overtaken(&outcome).is_empty() && !cancel.is_cancelled() {
        let approved = args.auto_approve && reviewed.is_none();
        if let Err(error) =
            catch_up(project, &options, approved, args, &lines, &cancel, &mut outcome, ui).await
        {
            ui.warn(&format!("what another run has changed could not be planned again: {error}"));
        }
    }
    if cancel.is_cancelled() {
        for name in overtaken(&outcome) {
            outcome.failed.insert(Address::Certificate(name), ApplyError::Interrupted);
        }
    }
    if !overtaken(&outcome).is_empty() {
        ui.alert(
            "what another run has changed was left as it is: `certplan plan` shows what there is to do now",
        );
    }
    Ok(conclude(&planned.plan, &outcome, stale, args, lines.as_deref(), ui))
}

/// Plans again what another run has changed, and does what is left of it where nobody has to approve that.
#[expect(clippy::too_many_arguments, reason = "a part of `execute`, whose state it goes on with")]
async fn catch_up(
    project: &Project,
    options: &crate::plan::PlanOptions,
    approved: bool,
    args: &WorkArgs,
    lines: &Events,
    cancel: &CancellationToken,
    outcome: &mut Outcome,
    ui: Ui,
) -> Result<(), CliError> {
    let clients = project.clients(args.parallelism, cancel)?;
    let context = project.context(cancel.clone());
    let again = plan_again(project, &clients, options, &context, outcome).await?;
    if !approved || again.plan.is_empty() {
        return Ok(());
    }
    match lines {
        Some(lines) => lines.plan(&again.plan),
        None => ui.data(&render::plan::text(&again.plan, ui.colors_stdout()))?,
    }
    let more = perform(project, clients, &again, context, args, lines.clone(), ui).await?;
    for name in again.plan.certificates_at_work() {
        outcome.failed.remove(&Address::Certificate(name.clone()));
    }
    outcome.done.extend(more.done);
    outcome.failed.extend(more.failed);
    outcome.accounts += more.accounts;
    Ok(())
}

fn approve(ui: Ui) -> Result<(), CliError> {
    match ui.ask("\nDo you want to apply these changes? Only \"yes\" is accepted: ")? {
        Some(answer) if answer == "yes" => Ok(()),
        Some(_) => Err(CliError::new("not approved; nothing was applied")),
        None => Err(CliError::new("there is no terminal to ask on; nothing was applied")
            .with_help("apply without asking with `--auto-approve`, or apply a saved plan")),
    }
}

/// The first Ctrl-C lets what is in flight finish and persist; the second ends at once, and the journal still holds.
fn interruptible(cancel: CancellationToken, ui: Ui) {
    tokio::spawn(async move {
        let Ok(mut signals) = Signals::new() else { return };
        signals.next().await;
        // A terminal that goes away may say so twice.
        signals.hang_up = None;
        ui.alert("interrupted: finishing what is in flight; once more ends at once");
        cancel.cancel();
        signals.next().await;
        #[expect(
            clippy::disallowed_methods,
            clippy::exit,
            reason = "the second signal ends at once, by design"
        )]
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
}

/// What ends a run: Ctrl-C, `kill`, and a terminal that goes away.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // Under `nohup` nothing is to listen.
            hang_up: if edge::ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
    }
}

async fn perform(
    project: &Project,
    clients: Clients,
    planned: &Planned,
    context: certplan_provider::Context,
    args: &WorkArgs,
    lines: Option<Arc<JsonLines>>,
    ui: Ui,
) -> Result<Outcome, CliError> {
    let certificates = planned.plan.certificates_at_work().len();
    let live = (!args.json && ui.is_live()).then(|| Arc::new(Live::new(certificates)));
    let plain = (lines.is_none() && live.is_none()).then(|| Arc::new(Lines::new(ui, certificates)));
    let reporter: Arc<dyn Reporter> = match (lines, &live, &plain) {
        (Some(lines), ..) => lines,
        (None, Some(live), _) => Arc::<Live>::clone(live),
        (None, None, Some(plain)) => Arc::<Lines>::clone(plain),
        (None, None, None) => Arc::new(apply::Silent),
    };
    let state = project.state();
    let lineage = match &planned.lineage {
        Some(lineage) => lineage.clone(),
        None if planned.plan.is_empty() => return Ok(Outcome::default()),
        None => state.initialize(edge::now()).await?,
    };
    let leases = project.leases();
    let zones = apply::LeasedZones::new(Arc::clone(&leases), args.lock_timeout, context.cancel.clone());
    let guard = Arc::new(zones);
    let watch = Arc::new(apply::ReportedZones(Arc::clone(&reporter)));
    let options = ApplyOptions { lock_timeout: args.lock_timeout, ..ApplyOptions::default() };
    let world = World {
        desired: Arc::clone(&project.desired),
        state,
        lineage,
        leases,
        sealer: project.sealer(ui)?,
        secrets: Arc::clone(&project.secrets),
        issuers: clients.issuers,
        writers: ZoneWriters::new(Arc::clone(&clients.providers), context.clone(), guard, watch),
        propagation: clients.poller,
        providers: clients.providers,
        lookup: clients.lookup,
        journaled: planned.journaled.clone(),
        targets: clients.targets,
        reporter,
        context,
        clock: Arc::new(edge::now),
        random_id: Arc::new(edge::random_id),
        options,
    };
    let work = apply::apply(world, &planned.plan, &planned.ari);
    let outcome = match plain {
        Some(plain) => tokio::select! {
            outcome = work => outcome,
            never = plain.keep_talking() => match never {},
        },
        None => work.await,
    };
    if let Some(live) = live {
        live.finish();
    }
    Ok(outcome)
}

/// Says how it ended, and returns the first exit code that applies.
fn conclude(
    plan: &Plan,
    outcome: &Outcome,
    stale: bool,
    args: &WorkArgs,
    lines: Option<&JsonLines>,
    ui: Ui,
) -> Exit {
    let interrupted = outcome.failed.values().any(|error| matches!(error, ApplyError::Interrupted));
    // A lease that could not be written is no other run's.
    let is_locked = |error: &ApplyError| {
        matches!(error, ApplyError::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }))
    };
    let locked = outcome.failed.values().any(is_locked);
    let deferred = outcome.failed.values().any(ApplyError::is_deferral);
    let stale = stale || !overtaken(outcome).is_empty();
    let others = outcome.failed.values().any(|error| {
        let is_told = matches!(error, ApplyError::Interrupted | ApplyError::Stale { .. });
        !is_locked(error) && !is_told && !error.is_deferral()
    });
    let tally = Tally::of(plan, outcome);
    match lines {
        Some(lines) => lines.summary(&tally),
        None if plan.is_empty() => {}
        None => match tally.text() {
            Ok(complete) => ui.say(&complete),
            Err(ended) => ui.alert(&ended),
        },
    }
    let planned = plan.exit_class();
    match () {
        () if interrupted => Exit::Interrupted,
        // Nothing could be begun: it ends as the plan does.
        () if planned == ExitClass::Error && plan.is_empty() => Exit::Error,
        () if others || planned == ExitClass::Error => Exit::Partial,
        () if planned == ExitClass::Refused => Exit::Refused,
        () if stale => Exit::Stale,
        () if locked => Exit::Locked,
        () if (deferred || !plan.deferred.is_empty()) && args.detailed_exitcode => Exit::Deferred,
        () => Exit::Success,
    }
}

fn parallelism(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => Err("give a number between 1 and 1024".to_owned()),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = || Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok();
    config::seconds(text)
        .map(Duration::from_secs)
        .or_else(parsed)
        .ok_or_else(|| "give a time such as 30s, 5m, 1h or 90d".to_owned())
}
