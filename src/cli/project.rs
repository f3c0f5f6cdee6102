//! A loaded configuration with the clients that it describes.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use certplan_provider::BuildContext;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::SecretResolver;
use certplan_provider::message_of;
use tokio_util::sync::CancellationToken;

use crate::acme::AcmeClient;
use crate::acme::AcmeSettings;
use crate::config;
use crate::config::Diagnostics;
use crate::config::Loaded;
use crate::config::Severity;
use crate::dns01::ConfiguredDns;
use crate::dns01::Providers;
use crate::model::Desired;
use crate::model::Name;
use crate::model::StateBackend;
use crate::registry::BUILTIN;
use crate::state::BootClock;
use crate::state::Holder;
use crate::state::Identities;
use crate::state::Leases;
use crate::state::LocalStore;
use crate::state::Reading;
use crate::state::Sealer;
use crate::state::Snapshot;
use crate::state::State;
use crate::state::Store;

use super::args::Global;
use super::edge;
use super::edge::EdgeSecrets;
use super::error::CliError;
use super::ui::Ui;

/// What to do where there is no configuration.
const BEGIN: &str =
    "`certplan init NAME --dns KIND --to FOLDER` writes a first configuration; `--config PATH` names another";

/// How long a lease lasts without a sign of life from its holder.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// How long one request to a CA may take.
const CA_TIMEOUT: Duration = Duration::from_secs(30);

/// A loaded configuration.
#[derive(Debug)]
pub(crate) struct Project {
    /// What the user wants.
    pub(crate) desired: Arc<Desired>,
    /// Resolves its secrets.
    pub(crate) secrets: Arc<dyn SecretResolver>,
    /// Where its state is.
    store: Arc<dyn Store>,
    ahead: Mutex<Option<Ahead>>,
    run: String,
}

/// What is stored in the folder that state has by default, read while the configuration still is: it may say another.
#[derive(Debug)]
struct Ahead {
    folder: PathBuf,
    reading: Reading,
}

impl Ahead {
    fn begin(config: &Path) -> Self {
        let folder = config::base(config).join(StateBackend::FOLDER);
        let reading = Reading::begin(Arc::new(LocalStore::new(folder.clone())));
        Self { folder, reading }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // Work that was given up may hold the store for longer than the process lives.
        self.store.close();
    }
}

impl Project {
    /// Loads the configuration; its problems are shown in full, and are one error.
    pub(crate) fn load(global: &Global, ui: Ui) -> Result<Self, CliError> {
        let loaded = load(global, ui)?;
        let desired = Arc::new(loaded.desired);
        let StateBackend::Local { path } = &desired.state;
        let store = LocalStore::new(desired.base.join(path))
            .with_warnings(move |warning| ui.warn(&warning.to_string()));
        let store: Arc<dyn Store> = Arc::new(store);
        let secrets = EdgeSecrets::new(desired.base.clone());
        Ok(Self { desired, secrets, store, ahead: Mutex::default(), run: edge::random_id() })
    }

    /// Loads the configuration for a plan, which state is read for meanwhile: of a large fleet both take long.
    pub(crate) fn load_to_plan(global: &Global, ui: Ui) -> Result<Self, CliError> {
        let ahead = Ahead::begin(&global.config);
        let project = Self::load(global, ui)?;
        let StateBackend::Local { path } = &project.desired.state;
        if project.desired.base.join(path) == ahead.folder {
            *project.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
        Ok(project)
    }

    /// What state knows, as far as a plan needs it.
    pub(crate) async fn outline(&self) -> Result<Snapshot, CliError> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(match ahead {
            Some(ahead) => ahead.reading.outline(&self.desired.project).await?,
            None => self.state().outline().await?,
        })
    }

    /// The state of the project.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::new(State::new(Arc::clone(&self.store), self.desired.project.clone(), self.run.clone()))
    }

    /// The leases beside it.
    pub(crate) fn leases(&self) -> Arc<Leases> {
        let holder = Holder::current(&edge::variable, &self.run);
        Arc::new(Leases::new(Arc::clone(&self.store), holder, LEASE, Arc::new(BootClock)))
    }

    /// What seals and opens keys; `None` without `encryption:`.
    pub(crate) fn sealer(&self, ui: Ui) -> Result<Option<Arc<Sealer>>, CliError> {
        match &self.desired.encryption {
            Some(encryption) => {
                let identities = identities(ui)?.allow_plugins(true);
                Ok(Some(Arc::new(Sealer::new(encryption, identities)?)))
            }
            None => Ok(None),
        }
    }

    /// A client per issuer. Opens no connection.
    pub(crate) fn issuers(
        &self,
        parallelism: usize,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<Name, Arc<AcmeClient>>, CliError> {
        let clients = self.desired.issuers.iter().map(|(name, issuer)| {
            let acme = issuer.acme();
            let mut settings = AcmeSettings::new(acme.directory.clone());
            settings.ca_bundle = match &acme.ca_bundle {
                Some(path) => {
                    let what = format!("the CA bundle of issuer `{name}`");
                    let bytes = edge::read_file(&self.desired.base.join(path));
                    Some(bytes.map_err(|error| CliError::new(format!("{what}: {error}")))?)
                }
                None => None,
            };
            settings.allow_hosts.clone_from(&acme.allow_hosts);
            settings.max_in_flight = parallelism;
            settings.timeout = CA_TIMEOUT;
            settings.cancel = cancel.clone();
            settings.user_agent = user_agent();
            let client = AcmeClient::new(settings)
                .map_err(|error| CliError::new(format!("issuer `{name}`: {error}")))?;
            Ok((name.clone(), client))
        });
        clients.collect()
    }

    /// The DNS providers. Resolves no credential.
    pub(crate) fn providers(&self) -> Result<Providers, CliError> {
        let context = self.build_context();
        let built = self.desired.dns.iter().map(|(name, wanted)| {
            let factory = BUILTIN.dns_factory(&wanted.kind).ok_or_else(|| {
                CliError::new(format!("DNS provider `{name}`: the kind `{}` is not built in", wanted.kind))
            })?;
            let provider = (factory.build)(&wanted.block, &context)
                .map_err(|complaints| complain(&format!("DNS provider `{name}`"), &complaints))?;
            let configured = ConfiguredDns::new(provider, wanted.zones.clone(), wanted.propagation.clone())
                .allow_private_servers(wanted.allow_private_servers);
            Ok((name.clone(), configured))
        });
        built.collect()
    }

    /// The deploy targets. Touches none of them.
    pub(crate) fn targets(&self) -> Result<BTreeMap<Name, Arc<dyn DeployTarget>>, CliError> {
        let context = self.build_context();
        let built = self.desired.targets.iter().map(|(name, wanted)| {
            let factory = BUILTIN.target_factory(&wanted.kind).ok_or_else(|| {
                CliError::new(format!("target `{name}`: the kind `{}` is not built in", wanted.kind))
            })?;
            let target = (factory.build)(&wanted.block, &context)
                .map_err(|complaints| complain(&format!("target `{name}`"), &complaints))?;
            Ok((name.clone(), target))
        });
        built.collect()
    }

    /// The context of a run.
    pub(crate) fn context(&self, cancel: CancellationToken) -> Context {
        Context::new(edge::now(), cancel)
    }

    fn build_context(&self) -> BuildContext {
        BuildContext::new(Arc::clone(&self.secrets), self.desired.base.clone(), user_agent())
    }
}

/// The age identities of whoever runs certplan, with a warning for each that others can read.
pub(crate) fn identities(ui: Ui) -> Result<Identities, CliError> {
    let identities = Identities::load(&edge::variable, edge::home().as_deref())?;
    for path in identities.exposed() {
        ui.warn(&format!(
            "`{}` holds an identity and can be read or written by every user: `chmod 600` it",
            path.display()
        ));
    }
    Ok(identities)
}

/// Loads the configuration and shows every warning and problem of it, those of its providers' blocks among them.
pub(crate) fn load(global: &Global, ui: Ui) -> Result<Loaded, CliError> {
    let loaded =
        config::load(&global.config, &BUILTIN).map_err(|error| report(&error, &global.config, ui))?;
    if !loaded.warnings.is_empty() {
        ui.alert(loaded.warnings.render(ui.colors_stderr()).trim_end());
    }
    Ok(loaded)
}

fn problems(diagnostics: &Diagnostics, ui: Ui) -> CliError {
    ui.alert(diagnostics.render(ui.colors_stderr()).trim_end());
    let warnings = diagnostics.iter().filter(|diagnostic| diagnostic.severity != Severity::Error).count();
    let count = diagnostics.len() - warnings;
    let problems = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    CliError::new(format!("the configuration has {problems}")).with_problems(diagnostics.to_events())
}

fn report(error: &config::LoadError, path: &Path, ui: Ui) -> CliError {
    match error.diagnostics() {
        Some(diagnostics) => problems(diagnostics, ui),
        None => unreadable(error, path),
    }
}

/// What to say of a configuration that could not be read.
fn unreadable(error: &config::LoadError, path: &Path) -> CliError {
    let problem = CliError::new(message_of(error));
    match error {
        config::LoadError::EmptyFolder { .. } | config::LoadError::Missing { .. }
            if path == Path::new("certplan.yaml") =>
        {
            problem.with_help(BEGIN)
        }
        config::LoadError::NotUtf8 { .. } => {
            problem.with_help("a configuration is UTF-8 text; save it as that in your editor")
        }
        _ => problem,
    }
}

fn complain(what: &str, complaints: &[Complaint]) -> CliError {
    let messages: Vec<String> = complaints
        .iter()
        .map(|complaint| match complaint.pointer.trim_start_matches('/') {
            "" => complaint.message.clone(),
            place => format!("`{}`: {}", place.replace('/', "."), complaint.message),
        })
        .collect();
    let error = CliError::new(format!("{what}: {}", messages.join("; ")));
    match complaints.iter().find_map(|complaint| complaint.help.clone()) {
        Some(help) => error.with_help(help),
        None => error,
    }
}

/// Reads a file of the configuration as text, for a command that edits it: what `validate` refuses to read is not edited.
pub(crate) fn text(path: &Path) -> Result<String, CliError> {
    config::text(path).map_err(|error| unreadable(&error, path))
}

/// The files of a configuration that is a folder; `None` when it is a file itself.
pub(crate) fn files(path: &Path) -> Result<Option<Vec<PathBuf>>, CliError> {
    config::files(path).map_err(|error| unreadable(&error, path))
}

/// What certplan calls itself to servers ([RFC 8555, section 6.1](https://www.rfc-editor.org/rfc/rfc8555#section-6.1)).
pub(crate) fn user_agent() -> String {
    format!("certplan/{}", env!("CARGO_PKG_VERSION"))
}
