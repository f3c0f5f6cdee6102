use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certplan_provider::BuildContext;
use certplan_provider::Bundle;
use certplan_provider::Capabilities;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::Deployed;
use certplan_provider::KeyOrigin;
use certplan_provider::KeyType;
use certplan_provider::ProviderError;
use certplan_provider::ReadBack;
use certplan_provider::Receipt;
use certplan_provider::Slot;
use certplan_provider::Update;
use rustix::fs::Timespec;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::sync::MutexGuard;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::block::FilesBlock;
use crate::block::FilesParameters;
use crate::command::CommandLine;
use crate::contents::Contents;
use crate::failure::shown;
use crate::look::Looker;
use crate::look::fingerprint;
use crate::place::Place;
use crate::place::lexical;
use crate::place::sequence;
use crate::placing::Placed;
use crate::placing::Replaced;
use crate::placing::bring_back;
use crate::placing::compare;
use crate::placing::differs;
use crate::placing::place_files;
use crate::store;
use crate::store::Entry;
use crate::store::Store;

/// How long to wait for another run that holds the lock, when the context sets no deadline.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looking is short and mostly answered from the page cache: more threads than these only get into each other's way, each
/// with a stack and a memory pool of its own.
static LOOKS: Semaphore = Semaphore::const_new(4);

/// Files on this machine.
#[derive(Debug)]
pub(crate) struct FilesTarget {
    block: FilesBlock,
    directory: PathBuf,
    commands: Commands,
    /// One at a time where a server is told. The lock of the folder is for other processes: waiting for it takes a thread,
    /// and its holder needs one to end.
    turn: Mutex<()>,
}

/// What makes a server take the files.
#[derive(Debug, Clone)]
struct Commands {
    test: Option<CommandLine>,
    reload: Option<CommandLine>,
    timeout: Duration,
}

/// What a receipt holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The version that the deployment made, or found in place.
    version: String,
    /// What it replaced.
    replaced: Replaced,
    /// Whether the reload command ran.
    reloaded: bool,
}

/// Why a server did not take the files.
struct Refused {
    error: ProviderError,
    reload_ran: bool,
}

/// Builds a target from its block.
pub(crate) fn build(block: &Value, context: &BuildContext) -> Result<Arc<dyn DeployTarget>, Vec<Complaint>> {
    let block = FilesBlock::read(block)?;
    let base =
        std::path::absolute(if context.base.as_os_str().is_empty() { Path::new(".") } else { &context.base })
            .map_err(|error| {
                vec![Complaint::new("", format!("the working directory is not known: {error}"))]
            })?;
    let directory = lexical(&base.join(&block.directory));
    let command =
        |words: &Option<Vec<String>>| words.as_deref().and_then(|words| CommandLine::new(words, &base));
    let commands = Commands {
        test: command(&block.test),
        reload: command(&block.reload),
        timeout: block.timeout().map_err(|complaint| vec![complaint])?,
    };
    Ok(Arc::new(FilesTarget { block, directory, commands, turn: Mutex::const_new(()) }))
}

#[async_trait]
impl DeployTarget for FilesTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            read_back: ReadBack::Certificate,
            update: Update::InPlace,
            // A lock that every certplan takes, and a comparison under it.
            compare_and_swap: true,
            key_types: KeyType::ALL.to_vec(),
            max_size: None,
            key_origin: KeyOrigin::Local,
        }
    }

    fn slot(&self, certificate: &str, parameters: &Value) -> Result<Slot, Vec<Complaint>> {
        let parameters: FilesParameters =
            if parameters.is_null() { FilesParameters::default() } else { Complaint::read(parameters)? };
        Place::new(&self.block, &self.directory, certificate, parameters)?.into_slot()
    }

    async fn identity(&self, slot: &Slot) -> String {
        let Ok(place) = Place::from_slot(slot) else { return slot.location.clone() };
        let real = blocking(move || {
            let directory = place.directory.canonicalize().unwrap_or_else(|_| place.directory.clone());
            Ok(directory.join(place.entry()).to_string_lossy().into_owned())
        });
        real.await.unwrap_or_else(|_: ProviderError| slot.location.clone())
    }

    async fn observe(&self, _: &Context, slot: &Slot) -> Result<Option<Deployed>, ProviderError> {
        let place = Place::from_slot(slot)?;
        // Never closed, so that there is always a permit to come.
        let _permit = LOOKS.acquire().await.ok();
        blocking(move || Looker::default().look(&place)).await
    }

    async fn observe_all(
        &self,
        _: &Context,
        slots: &[&Slot],
    ) -> Vec<Result<Option<Deployed>, ProviderError>> {
        let owned: Vec<Slot> = slots.iter().map(|slot| (*slot).clone()).collect();
        let _permit = LOOKS.acquire().await.ok();
        let looked = blocking(move || {
            let mut looker = Looker::default();
            let look = |slot| Place::from_slot(slot).and_then(|place| looker.look(&place));
            Ok(owned.iter().map(look).collect::<Vec<_>>())
        });
        looked.await.unwrap_or_else(|_| slots.iter().map(|_| Err(interrupted())).collect())
    }

    async fn check(&self, _: &Context, slot: &Slot) -> Result<(), ProviderError> {
        let place = Place::from_slot(slot)?;
        blocking(move || store::check(&place)).await
    }

    async fn deploy(
        &self,
        context: &Context,
        slot: &Slot,
        bundle: &Bundle,
        expected: Option<&Deployed>,
    ) -> Result<Receipt, ProviderError> {
        let place = Place::from_slot(slot)?;
        if place.directory != self.directory {
            return Err(ProviderError::invalid(format!(
                "`{}` is not in `{}`, which is where the configuration lets this target write",
                shown(&place.location()),
                shown(&self.directory)
            )));
        }
        let turn = self.turn(context).await?;
        let (wait, quiet) = (patience(context), turn.is_some());
        let contents = Contents::new(bundle)?;
        if bundle.chain.first().map(|leaf| fingerprint(leaf)) != Some(bundle.fingerprint) {
            return Err(ProviderError::invalid("the bundle's fingerprint is not that of its leaf"));
        }
        let (wanted, expected, context_now) = (bundle.fingerprint, expected.cloned(), context.now);
        let cancel = context.clone();
        let placed = blocking(move || {
            let store = Store::create(place, wait)?;
            let quiet = if quiet { Some(store.lock_directory(wait)?) } else { None };
            cancel.check()?;
            let modified = Timespec {
                tv_sec: context_now.as_second(),
                tv_nsec: context_now.subsec_nanosecond().max(0).into(),
            };
            place_files(store, quiet, &contents, wanted, expected.as_ref(), modified)
        })
        .await?;
        match self.commands.activate(context).await {
            Ok(reloaded) => {
                let record = Record { version: placed.version, replaced: placed.replaced, reloaded };
                let receipt = serde_json::to_value(record).map_err(|error| {
                    ProviderError::invalid("the receipt cannot be written").with_source(error)
                })?;
                Ok(Receipt(receipt))
            }
            Err(refused) => Err(self.put_back(context, placed, refused).await),
        }
    }

    async fn commit(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        let place = Place::from_slot(slot)?;
        let record = Record::read(receipt)?;
        context.check()?;
        let wait = patience(context);
        blocking(move || {
            let gone = differs(&place, &record.version);
            let store = Store::open(place, wait)?.ok_or(gone)?;
            if store.entry()? != Entry::Version(record.version.clone()) {
                return Err(differs(&store.place, &record.version));
            }
            store.run(&store.keep_only(&record.version)?)
        })
        .await
    }

    async fn rollback(&self, context: &Context, slot: &Slot, receipt: &Receipt) -> Result<(), ProviderError> {
        let place = Place::from_slot(slot)?;
        let record = Record::read(receipt)?;
        let previous = match &record.replaced {
            Replaced::Unchanged => return Ok(()),
            Replaced::Nothing => None,
            Replaced::Version(version) => Some(version.clone()),
        };
        let turn = self.turn(context).await?;
        let (wait, quiet) = (patience(context), turn.is_some());
        let version = record.version.clone();
        let back = previous.clone();
        let opened = blocking(move || {
            let Some(store) = Store::open(place.clone(), wait)? else {
                // Nothing of ours is here: so it is when nothing was here before, too.
                return if back.is_none() { Ok(None) } else { Err(differs(&place, &version)) };
            };
            let quiet = if quiet { Some(store.lock_directory(wait)?) } else { None };
            bring_back(&store, &version, back.as_deref())?;
            Ok(Some((store, quiet)))
        })
        .await?;
        let Some((store, _quiet)) = opened else { return Ok(()) };
        if let Err(error) = self.commands.reload(context).await {
            match previous {
                Some(_) => return Err(error),
                // A server that was set up for files that were never there before cannot read them now either.
                None => {
                    tracing::warn!(location = slot.location, %error, "reload after taking the files away");
                }
            }
        }
        blocking(move || match previous {
            Some(previous) => store.run(&store.keep_only(&previous)?),
            None => {
                store.run(&store.sweep(&[])?)?;
                store.dissolve()
            }
        })
        .await
    }

    async fn remove(
        &self,
        context: &Context,
        slot: &Slot,
        expected: Option<&Deployed>,
        _: Option<&Receipt>,
    ) -> Result<(), ProviderError> {
        let place = Place::from_slot(slot)?;
        let turn = self.turn(context).await?;
        let (wait, quiet, expected) = (patience(context), turn.is_some(), expected.cloned());
        let taken = blocking(move || {
            let Some(store) = Store::open(place, wait)? else { return Ok(None) };
            let quiet = if quiet { Some(store.lock_directory(wait)?) } else { None };
            let was = store.entry()?;
            if let Entry::Version(_) = was {
                let seen = Looker::default().look(&store.place)?;
                compare(&store.place, seen.as_ref(), expected.as_ref(), None)?;
                store.run(&store.swap_to(None))?;
            }
            Ok(Some((store, quiet, was)))
        })
        .await?;
        let Some((store, _quiet, was)) = taken else { return Ok(()) };
        // Versions without a link are what a run left that died here: the server may not know yet.
        let removed = match was {
            Entry::Foreign(_) => None,
            Entry::Version(version) => Some(version),
            Entry::Absent => store.versions()?.into_iter().rfind(|version| store.has_chain(version)),
        };
        if let Some(version) = removed
            && let Err(refused) = self.commands.activate(context).await
        {
            blocking(move || store.run(&store.swap_to(Some(&version)))).await?;
            if refused.reload_ran {
                // It failed without the files, and with them it is as before.
                let _ = self.commands.reload(context).await;
            }
            return Err(with_prefix(
                &refused.error,
                &format!(
                    "`{}` was put back, for the server still needs it; take it out of the server's configuration first",
                    shown(Path::new(&slot.location))
                ),
            ));
        }
        blocking(move || {
            store.run(&store.sweep(&[])?)?;
            store.dissolve()
        })
        .await
    }
}

impl FilesTarget {
    /// Waits until no other certificate is at the server; `None` where no server is told.
    async fn turn(&self, context: &Context) -> Result<Option<MutexGuard<'_, ()>>, ProviderError> {
        context.check()?;
        if self.commands.is_empty() {
            return Ok(None);
        }
        let turn = tokio::select! {
            turn = self.turn.lock() => Some(turn),
            () = context.cancel.cancelled() => None,
        };
        context.check()?;
        Ok(turn)
    }

    /// Makes what served before serve again, and tells why.
    async fn put_back(&self, context: &Context, placed: Placed, refused: Refused) -> ProviderError {
        let Placed { store, _quiet, replaced, .. } = placed;
        let previous = match replaced {
            Replaced::Unchanged => {
                return with_prefix(&refused.error, "the files were in place already and stay");
            }
            Replaced::Nothing => None,
            Replaced::Version(previous) => Some(previous),
        };
        let what = match &previous {
            Some(_) => "the previous certificate was put back",
            None => "nothing was there before, and the files were taken away again",
        };
        let swapped = blocking(move || {
            store.run(&store.swap_to(previous.as_deref()))?;
            Ok((store, previous))
        })
        .await;
        let (store, previous) = match swapped {
            Ok(swapped) => swapped,
            Err(error) => {
                return with_prefix(
                    &refused.error,
                    &format!("the previous certificate could not be put back ({error})"),
                );
            }
        };
        let mut what = what.to_owned();
        // Without files that were there before there is nothing to reload.
        if refused.reload_ran
            && previous.is_some()
            && let Err(error) = self.commands.reload(context).await
        {
            what = format!("{what}, but the server did not take it either ({error})");
        }
        let cleaned = blocking(move || match previous {
            Some(previous) => store.run(&store.keep_only(&previous)?),
            None => {
                store.run(&store.sweep(&[])?)?;
                store.dissolve()
            }
        })
        .await;
        if let Err(error) = cleaned {
            tracing::warn!(%error, "what a refused deployment left stays until the next");
        }
        with_prefix(&refused.error, &what)
    }
}

impl Commands {
    fn is_empty(&self) -> bool {
        self.test.is_none() && self.reload.is_none()
    }

    /// Tests, then reloads; tells whether a reload ran.
    async fn activate(&self, context: &Context) -> Result<bool, Refused> {
        if let Some(test) = &self.test {
            test.run(self.limit(context)).await.map_err(|error| Refused { error, reload_ran: false })?;
        }
        self.reload(context).await.map_err(|error| Refused { error, reload_ran: true })?;
        Ok(self.reload.is_some())
    }

    async fn reload(&self, context: &Context) -> Result<(), ProviderError> {
        match &self.reload {
            Some(reload) => reload.run(self.limit(context)).await,
            None => Ok(()),
        }
    }

    /// How long a command may run: never less than a second, so that putting back works at the deadline, too.
    fn limit(&self, context: &Context) -> Duration {
        context.remaining().map_or(self.timeout, |left| left.clamp(Duration::from_secs(1), self.timeout))
    }
}

impl Record {
    fn read(receipt: &Receipt) -> Result<Self, ProviderError> {
        let record = Self::deserialize(&receipt.0).map_err(|error| {
            ProviderError::invalid("the receipt is not of this target").with_source(error)
        })?;
        let ours = |version: &String| sequence(version).is_some();
        let previous = match &record.replaced {
            Replaced::Version(version) => ours(version),
            Replaced::Nothing | Replaced::Unchanged => true,
        };
        if ours(&record.version) && previous {
            return Ok(record);
        }
        Err(ProviderError::invalid("the receipt names versions that are not of this target"))
    }
}

/// The same error with what was done about it.
fn with_prefix(error: &ProviderError, what: &str) -> ProviderError {
    let message = format!("{what}: {error}");
    match error {
        ProviderError::Auth { .. } => ProviderError::auth(message),
        ProviderError::Transient { .. } => ProviderError::transient(message),
        _ => ProviderError::invalid(message),
    }
}

fn patience(context: &Context) -> Duration {
    context.remaining().unwrap_or(PATIENCE)
}

/// Does file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(interrupted()),
    }
}

fn interrupted() -> ProviderError {
    ProviderError::transient("the run ended before the files were looked at")
}
