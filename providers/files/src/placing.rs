//! What is put into a place under its lock, and brought back.

use std::os::fd::OwnedFd;

use certplan_provider::Deployed;
use certplan_provider::Fingerprint;
use certplan_provider::ProviderError;
use rustix::fs::Timespec;
use serde::Deserialize;
use serde::Serialize;

use crate::account::Owners;
use crate::contents::Contents;
use crate::failure::shown;
use crate::look::Looker;
use crate::place::Place;
use crate::step::Step;
use crate::store::Entry;
use crate::store::Pending;
use crate::store::Store;
use crate::store::foreign;

/// What a deployment replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Replaced {
    /// Nothing was there.
    Nothing,
    /// The bundle was there already: there is nothing to bring back.
    Unchanged,
    /// Another version.
    Version(String),
}

/// A deployment whose files are in place, under the lock.
pub(crate) struct Placed {
    pub(crate) store: Store,
    /// Keeps others from swapping files while a server tests and reads them.
    pub(crate) _quiet: Option<OwnedFd>,
    pub(crate) version: String,
    pub(crate) replaced: Replaced,
}

/// Writes a version and makes the link lead to it, unless it does already.
pub(crate) fn place_files(
    store: Store,
    quiet: Option<OwnedFd>,
    contents: &Contents,
    wanted: Fingerprint,
    expected: Option<&Deployed>,
    modified: Timespec,
) -> Result<Placed, ProviderError> {
    let now = store.entry()?;
    if let Entry::Foreign(what) = &now {
        return Err(foreign(&store.place, what));
    }
    let seen = Looker::default().look(&store.place)?;
    compare(&store.place, seen.as_ref(), expected, Some(wanted))?;
    let current = match now {
        Entry::Version(version) => Some(version),
        Entry::Absent | Entry::Foreign(_) => None,
    };
    let in_place = seen.is_some_and(|seen| seen.fingerprint == Some(wanted) && seen.deviations.is_empty());
    if let Some(current) = &current
        && in_place
        && store.holds(current, contents)
    {
        let replaced = match store.pending().filter(|pending| pending.version == *current) {
            Some(Pending { previous: Some(previous), .. }) if store.open_version(&previous).is_ok() => {
                Replaced::Version(previous)
            }
            Some(_) => Replaced::Nothing,
            None => Replaced::Unchanged,
        };
        let mut keep = vec![current.as_str()];
        if let Replaced::Version(previous) = &replaced {
            keep.push(previous);
        }
        store.run(&store.sweep(&keep)?)?;
        // A run may have died between the swap and this.
        store.run(&[Step::SyncDirectory])?;
        let version = current.clone();
        return Ok(Placed { store, _quiet: quiet, version, replaced });
    }
    let previous = current.filter(|version| store.open_version(version).is_ok());
    let keep: Vec<&str> = previous.as_deref().into_iter().collect();
    store.run(&store.sweep(&keep)?)?;
    let version = store.next_version(&wanted.short())?;
    let owners = Owners::of(&store.place)?;
    let files = store.place.files().into_iter().map(|file| (file, contents.of(file))).collect();
    let pending = Pending { version: version.clone(), previous: previous.clone() };
    let steps = [store.write(&version, files, owners, modified), store.switch(pending)].concat();
    if let Err(error) = store.run(&steps) {
        // Best effort: what stays behind is swept by the next run.
        if let Ok(Entry::Version(now)) = store.entry() {
            let _ =
                store.sweep(&[&now, previous.as_deref().unwrap_or(&now)]).and_then(|steps| store.run(&steps));
        }
        return Err(error);
    }
    let replaced = previous.map_or(Replaced::Nothing, Replaced::Version);
    Ok(Placed { store, _quiet: quiet, version, replaced })
}

/// Fails when the place holds neither what the caller saw last nor the certificate that is wanted there.
pub(crate) fn compare(
    place: &Place,
    seen: Option<&Deployed>,
    expected: Option<&Deployed>,
    wanted: Option<Fingerprint>,
) -> Result<(), ProviderError> {
    let identity = |deployed: &Deployed| (deployed.fingerprint, deployed.version.clone());
    let is_wanted = wanted.is_some() && seen.is_some_and(|seen| seen.fingerprint == wanted);
    let as_expected = match (seen, expected) {
        (Some(seen), Some(expected)) if expected.version.is_some() => identity(seen) == identity(expected),
        (Some(seen), Some(expected)) => seen.fingerprint == expected.fingerprint,
        // What was seen and is gone is no loss to anybody.
        (None, _) => true,
        (Some(_), None) => false,
    };
    if is_wanted || as_expected {
        return Ok(());
    }
    let holds = seen
        .and_then(|seen| seen.fingerprint)
        .map_or_else(|| "something else".to_owned(), |found| found.short());
    Err(ProviderError::conflict(format!(
        "`{}` holds {holds} now, which is not what was there when this run looked",
        shown(&place.location())
    )))
}

/// Points the link at what a deployment replaced.
pub(crate) fn bring_back(store: &Store, version: &str, previous: Option<&str>) -> Result<(), ProviderError> {
    let current = store.entry()?;
    let already = match (&current, previous) {
        (Entry::Absent, None) => true,
        (Entry::Version(current), Some(previous)) => current == previous,
        _ => false,
    };
    if already {
        return Ok(());
    }
    if current != Entry::Version(version.to_owned()) {
        return Err(differs(&store.place, version));
    }
    if let Some(previous) = previous
        && store.open_version(previous).is_err()
    {
        return Err(ProviderError::not_found(format!(
            "the version `{previous}` of `{}` is gone and cannot be brought back",
            shown(&store.place.location())
        )));
    }
    store.run(&store.swap_to(previous))
}

pub(crate) fn differs(place: &Place, version: &str) -> ProviderError {
    ProviderError::conflict(format!(
        "`{}` does not hold the version `{version}` any more",
        shown(&place.location())
    ))
}
