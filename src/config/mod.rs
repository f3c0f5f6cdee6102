//! The configuration language: from text to [`Desired`], with every problem of every file in one run.
//!
//! `text -> Node (spanned tree) -> checked against the schema -> Desired`. The tree is checked against the same schema
//! that editors use, then read in place: each value knows its file, line and column until the end. Nothing but
//! [`load`] touches the file system; nothing at all touches the network, the environment or a secret.

mod build;
mod check;
mod convert;
mod diagnostic;
#[cfg(test)]
mod fake;
mod format;
mod grammar;
mod init;
mod merge;
mod node;
mod parser;
mod path;
mod promote;
mod render;
mod rule;
#[cfg(test)]
mod samples;
mod schema;
mod sketch;
mod source;
mod span;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use convert::seconds;
pub use diagnostic::{Diagnostic, Diagnostics, Label, Severity};
pub use format::format;
pub(crate) use init::PLACEHOLDER;
pub use init::{InitOptions, render as init};
pub use promote::{PromoteError, edit as promote};
pub use schema::schema;
pub use source::base;
pub use source::list as files;
pub use source::text;
pub use span::{Location, Source, Sources, Span};

use crate::model::Address;
use crate::model::Desired;
use crate::model::Name;
use crate::registry::Registry;
use convert::Places;
use diagnostic::Report;
use node::Node;
use parser::LIMITS;

/// A valid configuration, and where everything in it stands.
#[derive(Debug)]
pub struct Loaded {
    /// What is wanted.
    pub desired: Desired,
    /// What works and is likely not what was meant.
    pub warnings: Diagnostics,
    /// The files.
    pub sources: Arc<Sources>,
    places: Places,
}

impl Loaded {
    /// Where the configuration says something about an address; `None` when it does not.
    pub fn locate(&self, address: &Address) -> Option<Location> {
        self.sources.locate(self.places.addresses.get(address)?.span)
    }

    /// Where a DNS provider stands.
    pub fn locate_dns(&self, name: &Name) -> Option<Location> {
        self.sources.locate(self.places.dns.get(name)?.span)
    }

    /// Where a target stands, or the entry of `deploy` that it is written in.
    pub fn locate_target(&self, name: &Name) -> Option<Location> {
        self.sources.locate(self.places.targets.get(name)?.span)
    }
}

/// Reads and validates a configuration: a file, or a folder whose `*.yaml` and `*.yml` are merged.
pub fn load(path: &Path, registry: &Registry) -> Result<Loaded, LoadError> {
    let files = source::read(path)?;
    parse(files.sources, files.base, registry)
}

/// Validates a configuration that is at hand as text. Relative paths in it start from `base`.
pub fn parse(sources: Sources, base: PathBuf, registry: &Registry) -> Result<Loaded, LoadError> {
    let sources = Arc::new(sources);
    let mut report = Report::default();
    let mut ids = 0;
    let mut roots = Vec::new();
    for (index, file) in (0_u32..).zip(sources.files()) {
        let errors = report.errors();
        let root = parser::parse(file, index, &LIMITS, &mut ids, &mut report);
        let is_empty = report.errors() == errors && root.as_ref().is_none_or(Node::is_nothing);
        if is_empty && sources.files().len() > 1 {
            // What it held before it was emptied would be removed.
            report.push(
                Diagnostic::error("empty", Span::new(index, 0, 0), "the file is empty")
                    .help("delete it if nothing is meant to be in it"),
            );
        }
        roots.extend(root);
    }
    let incomplete = report.errors() > 0 && roots.len() < sources.files().len();
    let root = merge::merge(roots, &mut report);
    let converted = convert::convert(&root, base, registry, incomplete, &mut report);
    if let Some((desired, places)) = &converted {
        build::check(desired, places, &root, registry, &mut report);
    }
    let failed = report.errors() > 0;
    let diagnostics = report.finish(Arc::clone(&sources));
    match converted {
        Some((desired, places)) if !failed => Ok(Loaded { desired, warnings: diagnostics, sources, places }),
        _ => Err(LoadError::Invalid { diagnostics: Box::new(diagnostics) }),
    }
}

/// Why there is no configuration to work with. Nothing is ever planned from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A folder without a `*.yaml` or `*.yml` in it.
    #[error("the folder `{}` holds no `*.yaml` and no `*.yml`", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The configuration has errors.
    #[error("the configuration is not valid\n\n{diagnostics}")]
    Invalid {
        /// All of them, and warnings.
        diagnostics: Box<Diagnostics>,
    },
    /// There is no such file or folder.
    #[error("there is no configuration at `{}`", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// A symbolic link, a device or a FIFO.
    #[error("`{}` is not a regular file: configurations are not read through links or devices", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// A file that is no text.
    #[error("{}:{line}:{column}: this octet is no UTF-8: {octet:#04x}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column of its first such octet, from 1.
        column: usize,
        /// The octet.
        octet: u8,
    },
    /// A file, or all of them together, beyond the bounds.
    #[error("`{}` is too large: {limit} octets can be read of it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many octets are allowed.
        limit: usize,
    },
    /// A folder with too many files.
    #[error("the folder `{}` holds more than {limit} `*.yaml` and `*.yml`", path.display())]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// How many are allowed.
        limit: usize,
    },
    /// The file system refuses.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl LoadError {
    /// The problems of the configuration itself, when it could be read.
    pub fn diagnostics(&self) -> Option<&Diagnostics> {
        match self {
            Self::Invalid { diagnostics } => Some(diagnostics),
            _ => None,
        }
    }
}

/// Spans by the name of a thing.
type Names<T> = BTreeMap<Name, T>;
