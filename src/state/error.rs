use super::key::KeyError;
use super::store::StoreError;

/// Why state could not be read or written. None of these means that state is new.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another run changed the object since it was read.
    #[error("`{location}` was changed by another run (`{}`) in the meantime", run.escape_debug())]
    Conflict {
        /// Where the object is.
        location: String,
        /// The run that wrote what is there now, as it says itself; empty when nothing is there any more.
        run: String,
    },
    /// The object is truncated, damaged, edited by hand, or not what its place says.
    #[error("`{location}` is not usable as state: {reason}")]
    Damaged {
        /// Where the object is.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object belongs to another state.
    #[error("`{location}` is of the state with lineage `{}`, and this is `{expected}`", found.escape_debug())]
    ForeignLineage {
        /// Where the object is.
        location: String,
        /// The lineage that it names.
        found: String,
        /// The lineage of this state.
        expected: String,
    },
    /// A name that is asked for cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There are objects, but not the one that says which state they belong to.
    #[error("`{location}` is missing, but there are other objects of a state: `{other}`")]
    NoLineage {
        /// Where `state.json` should be.
        location: String,
        /// The first of the other objects.
        other: String,
    },
    /// Several objects cannot be used.
    #[error("{} state objects cannot be used; the first: {}", errors.len(), errors.first().map(ToString::to_string).unwrap_or_default())]
    Several {
        /// Each of them, in the order of their keys.
        errors: Vec<Self>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object was written by a newer certplan.
    #[error("`{location}` has format {format}, and this certplan knows formats up to {known}")]
    TooNew {
        /// Where the object is.
        location: String,
        /// Its format.
        format: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// Nothing was written yet: the state has no lineage.
    #[error("the state has not been initialized")]
    Uninitialized,
}

impl StateError {
    /// What the user can do about it.
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Conflict { .. } => "run the command again: it starts from what is there now",
            Self::Damaged { .. } => {
                "restore the file from a backup or version control; to give up what it remembers, move it away by hand"
            }
            Self::ForeignLineage { .. } => {
                "two states were mixed: move the file back to the state it came from"
            }
            Self::NoLineage { .. } => "restore `state.json` from a backup or version control",
            Self::TooNew { .. } => "use the certplan version that wrote it, or a newer one",
            Self::Store(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Every error of which this one is made.
    pub fn each(&self) -> impl Iterator<Item = &Self> {
        match self {
            Self::Several { errors } => errors.as_slice(),
            single => std::slice::from_ref(single),
        }
        .iter()
    }
}
