use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use tokio::task::JoinError;
use tokio::task::spawn_blocking;

use super::error::StateError;
use super::key::ObjectKey;
use super::object::Content;
use super::object::Envelope;
use super::object::Gone;
use super::object::Stored;
use super::records::State;
use super::store::Store;
use super::store::StoreError;
use super::store::Version;
use crate::model::AccountRecord;
use crate::model::CertificateRecord;
use crate::model::Failures;
use crate::model::Fingerprint;
use crate::model::Issuance;
use crate::model::Issued;
use crate::model::Name;

/// How many objects one task reads and parses: enough to be worth a thread, few enough to share the work evenly.
const CHUNK: usize = 128;

/// How many chunks are in the works: this bounds the octets that are held unparsed.
const CHUNKS_AT_ONCE: usize = 4;

/// The state, read at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The lineage; `None` when the state is new.
    pub lineage: Option<String>,
    /// The project's certificates.
    pub certificates: BTreeMap<Name, Stored<CertificateRecord>>,
    /// The accounts, by issuer; all projects share them.
    pub accounts: BTreeMap<Name, Stored<AccountRecord>>,
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

type Parsed<T> = (ObjectKey, Result<Result<Stored<T>, Box<Gone>>, StateError>);

impl State {
    /// The identifiers of all open operations on the store, of every project.
    ///
    /// # Errors
    /// When any certificate cannot be read: what it has open would be missing.
    pub async fn open_operations(&self) -> Result<BTreeSet<String>, StateError> {
        let Some(lineage) = self.lineage().await? else { return Ok(BTreeSet::new()) };
        let keys = self.store.list("projects/").await?;
        let mut open = BTreeSet::new();
        for (_, parsed) in self.read_all::<CertificateRecord>(&keys, &lineage.into(), |_| {}).await? {
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

    /// Reads everything that a plan needs: the certificates without their chains and sealed keys, which are not to be
    /// saved like that.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub async fn outline(&self) -> Result<Snapshot, StateError> {
        self.read(CertificateRecord::leave_out_documents).await
    }

    async fn read(&self, trim: fn(&mut CertificateRecord)) -> Result<Snapshot, StateError> {
        let Some(lineage) = self.lineage().await? else { return Ok(Snapshot::default()) };
        let certificates = self.store.list("projects/").await?;
        let accounts = self.store.list("accounts/").await?;
        let lineage: Arc<str> = lineage.into();
        let certificates = self.read_all::<CertificateRecord>(&certificates, &lineage, trim).await?;
        let accounts = self.read_all::<AccountRecord>(&accounts, &lineage, |_| {}).await?;

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
        let mut ours = Vec::with_capacity(certificates.len());
        for (key, parsed) in certificates {
            // A file that is not a certificate's is none of ours, whatever it holds.
            let Some((project, name)) = key.as_certificate() else { continue };
            match parsed {
                Ok(Ok(stored)) if project == self.project => ours.push((name, stored)),
                Ok(Ok(Stored { content, .. })) => {
                    snapshot.count(project, name, content.issuances, content.failures);
                }
                Ok(Err(gone)) => {
                    snapshot.count(project, name, gone.remains.issuances, gone.remains.failures);
                }
                Err(error) if project == self.project => errors.push(error),
                Err(error) => snapshot.unreadable.push(error),
            }
        }
        // From a list that is in order already a map is built at once.
        snapshot.certificates = ours.into_iter().collect();
        snapshot.leave_out_renamed();
        match errors.len() {
            0 => Ok(snapshot),
            1 => Err(errors.remove(0)),
            _ => Err(StateError::Several { errors }),
        }
    }

    async fn read_all<T: Content>(
        &self,
        keys: &[ObjectKey],
        lineage: &Arc<str>,
        trim: fn(&mut T),
    ) -> Result<Vec<Parsed<T>>, StateError> {
        let chunks: Vec<Vec<ObjectKey>> = keys.chunks(CHUNK).map(<[ObjectKey]>::to_vec).collect();
        let mut reads = stream::iter(chunks)
            .map(|keys| {
                let (store, lineage) = (Arc::clone(&self.store), Arc::clone(lineage));
                tokio::spawn(async move { read_chunk::<T>(store, keys, lineage, trim).await })
            })
            .buffered(CHUNKS_AT_ONCE);
        let mut parsed = Vec::with_capacity(keys.len());
        while let Some(chunk) = reads.next().await {
            parsed.extend(chunk.map_err(interrupted)??);
        }
        Ok(parsed)
    }
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
        let is_copied = |copy: &Stored<CertificateRecord>| {
            let origin = copy.moved_from()?;
            let original = self.certificates.get(&origin.name)?;
            let certificate = fingerprint(original.current.as_ref());
            let copied =
                [copy.current.as_ref(), copy.previous.as_ref()].map(fingerprint).contains(&certificate);
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
                let found = store.get(&key).await;
                read.push((key, found));
            }
        }
    }
    let parse = move || {
        let decode = |key: &ObjectKey, bytes: &[u8], version: Version| {
            let mut object = Envelope::<T>::decode(bytes, key, &store.locate(key), Some(&lineage))?;
            // At once, so that the next object takes the room.
            if let Some(content) = &mut object.content {
                trim(content);
            }
            Ok(object.into_stored(version))
        };
        read.into_iter()
            .filter_map(|(key, found)| match found {
                Ok(Some(found)) => {
                    let parsed = decode(&key, &found.bytes, found.version);
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
