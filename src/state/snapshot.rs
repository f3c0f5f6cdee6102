use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::error::StateError;
use super::key::ObjectKey;
use super::object::Content;
use super::object::Envelope;
use super::object::Gone;
use super::object::Stored;
use super::records::State;
use super::records::lineage_of;
use super::store::Store;
use super::store::StoreError;
use crate::model::AccountRecord;
use crate::model::CertificateRecord;
use crate::model::Failures;
use crate::model::Fingerprint;
use crate::model::Issuance;
use crate::model::Issued;
use crate::model::Name;

/// How many objects one task reads and parses: enough to be worth a thread, few enough to share the work evenly.
const CHUNK: usize = 64;

/// How many chunks are in the works: this bounds the octets that are held unparsed.
const CHUNKS_AT_ONCE: usize = 4;

/// The turns of those who read chunks.
type Turns = Arc<Semaphore>;

fn turns(at_once: usize) -> Turns {
    Arc::new(Semaphore::new(at_once))
}

/// The state, read at one time: to look at. What is to be written is read again.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The lineage; `None` when the state is new.
    pub lineage: Option<String>,
    /// The project's certificates.
    pub certificates: BTreeMap<Name, Stored<Box<CertificateRecord>>>,
    /// The accounts, by issuer; all projects share them.
    pub accounts: BTreeMap<Name, Stored<Box<AccountRecord>>>,
    /// What else counts towards the CA's rate limits: other projects' certificates, and those that were given up.
    pub elsewhere: Vec<Usage>,
    /// What cannot be used of other projects: their issuances are missing from `elsewhere`, and nothing else is affected.
    pub unreadable: Vec<StateError>,
}

/// What a certificate that is not planned here used of the CA's rate limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Its project.
    pub project: Name,
    /// Its name.
    pub certificate: Name,
    /// Its issuances.
    pub issuances: Vec<Issuance>,
    /// Its failures.
    pub failures: Option<Failures>,
}

type Parsed<T> = (ObjectKey, Result<Result<Stored<Box<T>>, Box<Gone>>, StateError>);

impl State {
    /// The identifiers of all open operations on the store, of every project.
    ///
    /// # Errors
    /// When any certificate cannot be read: what it has open would be missing.
    pub async fn open_operations(&self) -> Result<BTreeSet<String>, StateError> {
        let Some(lineage) = self.lineage().await? else { return Ok(BTreeSet::new()) };
        let keys = self.store.list("projects/").await?;
        let mut open = BTreeSet::new();
        let turns = turns(CHUNKS_AT_ONCE);
        for (_, parsed) in
            read_all::<CertificateRecord>(&self.store, &keys, &lineage.into(), |_| {}, &turns).await?
        {
            if let Ok(stored) = parsed? {
                open.extend(stored.content.operation.map(|operation| operation.id));
            }
        }
        Ok(open)
    }

    /// Reads everything, many objects at a time.
    ///
    /// # Errors
    /// When any object of this project or any account cannot be used, with all of them named
    /// ([`StateError::Several`]): a plan that left one out would take it for new.
    pub async fn snapshot(&self) -> Result<Snapshot, StateError> {
        self.read(|_| {}).await
    }

    /// Reads everything that a plan needs: the certificates without their chains and sealed keys.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub async fn outline(&self) -> Result<Snapshot, StateError> {
        self.read(CertificateRecord::leave_out_documents).await
    }

    async fn read(&self, trim: fn(&mut CertificateRecord)) -> Result<Snapshot, StateError> {
        let turns = turns(CHUNKS_AT_ONCE);
        gather(&self.store, trim, &turns)
            .await?
            .map_or_else(|| Ok(Snapshot::default()), |all| all.of(&self.project))
    }
}

/// Everything that a plan needs, being read while it is still to be found out for which project.
#[derive(Debug)]
pub struct Reading {
    gathered: AbortOnDropHandle<Result<Option<Gathered>, StateError>>,
    turns: Turns,
    held_back: usize,
}

impl Reading {
    /// Begins to read what is on a store, on all cores but the one of whoever finds out the project. Dropping it gives up.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn begin(store: Arc<dyn Store>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.saturating_sub(1).clamp(1, CHUNKS_AT_ONCE);
        let turns = turns(at_once);
        let held_back = CHUNKS_AT_ONCE - at_once;
        let gathering = {
            let turns = Arc::clone(&turns);
            async move { gather(&store, CertificateRecord::leave_out_documents, &turns).await }
        };
        Self { gathered: AbortOnDropHandle::new(tokio::spawn(gathering)), turns, held_back }
    }

    /// What was read, for a project: what [`State::outline`] returns.
    ///
    /// # Errors
    /// As [`State::outline`].
    pub async fn outline(self, project: &Name) -> Result<Snapshot, StateError> {
        self.turns.add_permits(self.held_back);
        let all = self.gathered.await.map_err(interrupted)??;
        all.map_or_else(|| Ok(Snapshot::default()), |all| all.of(project))
    }
}

/// The objects of all projects, each judged for itself.
#[derive(Debug)]
struct Gathered {
    lineage: Arc<str>,
    certificates: Vec<Parsed<CertificateRecord>>,
    accounts: Vec<Parsed<AccountRecord>>,
}

/// Reads and judges everything; `None` when nothing was ever written.
async fn gather(
    store: &Arc<dyn Store>,
    trim: fn(&mut CertificateRecord),
    turns: &Turns,
) -> Result<Option<Gathered>, StateError> {
    let Some(lineage) = lineage_of(store.as_ref()).await? else { return Ok(None) };
    let lineage: Arc<str> = lineage.into();
    let certificates = store.list("projects/").await?;
    let accounts = store.list("accounts/").await?;
    let certificates = read_all::<CertificateRecord>(store, &certificates, &lineage, trim, turns).await?;
    let accounts = read_all::<AccountRecord>(store, &accounts, &lineage, |_| {}, turns).await?;
    Ok(Some(Gathered { lineage, certificates, accounts }))
}

impl Gathered {
    /// What concerns a project.
    fn of(self, ours: &Name) -> Result<Snapshot, StateError> {
        let Self { lineage, certificates, accounts } = self;
        let mut snapshot = Snapshot { lineage: Some(lineage.to_string()), ..Snapshot::default() };
        let mut errors = Vec::new();
        for (key, parsed) in accounts {
            match (key.as_account(), parsed) {
                (Some(issuer), Ok(Ok(stored))) => {
                    snapshot.accounts.insert(issuer, stored);
                }
                (_, Err(error)) => errors.push(error),
                (_, Ok(_)) => {}
            }
        }
        let mut records = Vec::with_capacity(certificates.len());
        for (key, parsed) in certificates {
            // A file that is not a certificate's is none of ours, whatever it holds.
            let Some((project, name)) = key.as_certificate() else { continue };
            match parsed {
                Ok(Ok(stored)) if project == *ours => records.push((name, stored)),
                Ok(Ok(stored)) => {
                    let CertificateRecord { issuances, failures, .. } = *stored.content;
                    snapshot.count(project, name, issuances, failures);
                }
                Ok(Err(gone)) => {
                    snapshot.count(project, name, gone.remains.issuances, gone.remains.failures);
                }
                Err(error) if project == *ours => errors.push(error),
                Err(error) => snapshot.unreadable.push(error),
            }
        }
        // From a list that is in order already a map is built at once.
        snapshot.certificates = records.into_iter().collect();
        snapshot.leave_out_renamed();
        match errors.len() {
            0 => Ok(snapshot),
            1 => Err(errors.remove(0)),
            _ => Err(StateError::Several { errors }),
        }
    }
}

async fn read_all<T: Content>(
    store: &Arc<dyn Store>,
    keys: &[ObjectKey],
    lineage: &Arc<str>,
    trim: fn(&mut T),
    turns: &Turns,
) -> Result<Vec<Parsed<T>>, StateError> {
    let chunks: Vec<Vec<ObjectKey>> = keys.chunks(CHUNK).map(<[ObjectKey]>::to_vec).collect();
    let mut reads = stream::iter(chunks)
        .map(|keys| {
            let (store, lineage, turns) = (Arc::clone(store), Arc::clone(lineage), Arc::clone(turns));
            AbortOnDropHandle::new(tokio::spawn(async move {
                // Never closed, so that there is always a permit to come.
                let _turn = turns.acquire().await.ok();
                read_chunk::<T>(store, keys, lineage, trim).await
            }))
        })
        .buffered(CHUNKS_AT_ONCE);
    let mut parsed = Vec::with_capacity(keys.len());
    while let Some(chunk) = reads.next().await {
        parsed.extend(chunk.map_err(interrupted)??);
    }
    Ok(parsed)
}

impl Snapshot {
    fn count(
        &mut self,
        project: Name,
        certificate: Name,
        issuances: Vec<Issuance>,
        failures: Option<Failures>,
    ) {
        if !issuances.is_empty() || failures.is_some() {
            self.elsewhere.push(Usage { project, certificate, issuances, failures });
        }
    }

    /// Leaves out what was copied to a new name and not given up yet, because a run died in between.
    ///
    /// The copy must hold the same certificate: a forged origin makes nothing disappear.
    fn leave_out_renamed(&mut self) {
        let is_copied = |copy: &Stored<Box<CertificateRecord>>| {
            let origin = copy.moved_from()?;
            let original = self.certificates.get(&origin.name)?;
            let certificate = fingerprint(original.current.as_ref());
            let copied =
                [copy.current.as_ref(), copy.previous.as_deref()].map(fingerprint).contains(&certificate);
            (original.serial() == origin.serial && copied).then(|| origin.name.clone())
        };
        let originals: Vec<Name> = self.certificates.values().filter_map(is_copied).collect();
        for name in originals {
            self.certificates.remove(&name);
        }
    }
}

async fn read_chunk<T: Content>(
    store: Arc<dyn Store>,
    keys: Vec<ObjectKey>,
    lineage: Arc<str>,
    trim: fn(&mut T),
) -> Result<Vec<Parsed<T>>, StateError> {
    let mut read = Vec::with_capacity(keys.len());
    match store.get_many(&keys).await {
        Ok(found) => read.extend(keys.into_iter().zip(found).map(|(key, found)| (key, Ok(found)))),
        // One object that cannot be read must not hide which one it is, nor the others.
        Err(_) => {
            for key in keys {
                let found = store.get(&key).await.map(|found| found.map(|found| found.bytes));
                read.push((key, found));
            }
        }
    }
    let parse = move || {
        let decode = |key: &ObjectKey, bytes: &[u8]| {
            let mut object = Envelope::<T>::decode(bytes, key, &store.locate(key), Some(&lineage))?;
            // At once, so that the next object takes the room.
            if let Some(content) = &mut object.content {
                trim(content);
            }
            Ok(object.into_stored(None).map(Stored::boxed))
        };
        read.into_iter()
            .filter_map(|(key, found)| match found {
                Ok(Some(found)) => {
                    let parsed = decode(&key, &found);
                    Some((key, parsed))
                }
                // It went between the listing and the reading.
                Ok(None) => None,
                Err(error) => Some((key, Err(error.into()))),
            })
            .collect()
    };
    spawn_blocking(parse).await.map_err(interrupted)
}

fn fingerprint(issued: Option<&Issued>) -> Option<Fingerprint> {
    issued.map(|issued| issued.facts.fingerprint)
}

/// A task that did not end by itself: the runtime went away under it.
fn interrupted(error: JoinError) -> StateError {
    StoreError::Transient { location: "the state".to_owned(), action: "read", source: Box::new(error) }.into()
}
