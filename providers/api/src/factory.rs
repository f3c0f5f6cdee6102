use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dns::DnsProvider;
use crate::secret::SecretResolver;
use crate::target::DeployTarget;

/// How a kind of DNS provider enters certplan: its name, the schema of its block and how to build it.
#[derive(Clone, Copy)]
pub struct DnsFactory {
    /// The key in the configuration: also the folder, the crate's suffix and the feature.
    pub kind: &'static str,
    /// The schema of the block under the key, from the type that [`build`](Self::build) reads.
    pub schema: fn() -> Schema,
    /// Checks a block beyond its schema, without network, files or credentials.
    pub check: fn(&Value) -> Result<(), Vec<Complaint>>,
    /// Builds a provider from a block that passed `check`. Does not touch the network.
    pub build: fn(&Value, &BuildContext) -> Result<Arc<dyn DnsProvider>, Vec<Complaint>>,
}

/// How a kind of deploy target enters certplan.
#[derive(Clone, Copy)]
pub struct TargetFactory {
    /// The key in the configuration: also the folder, the crate's suffix and the feature.
    pub kind: &'static str,
    /// The schema of the block under the key in `targets`.
    pub schema: fn() -> Schema,
    /// The schema of what an entry of `deploy` may say beside the target's name.
    pub parameters: fn() -> Schema,
    /// Checks a block beyond its schema, without network, files or credentials.
    pub check: fn(&Value) -> Result<(), Vec<Complaint>>,
    /// Builds a target from a block that passed `check`. Does not touch the network.
    pub build: fn(&Value, &BuildContext) -> Result<Arc<dyn DeployTarget>, Vec<Complaint>>,
}

impl fmt::Debug for DnsFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsFactory({})", self.kind)
    }
}

impl fmt::Debug for TargetFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetFactory({})", self.kind)
    }
}

/// What a factory may use of the world.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildContext {
    /// Resolves the block's secrets, as late as possible: on first use, not in `build`.
    pub secrets: Arc<dyn SecretResolver>,
    /// The folder that relative paths start from: the one that holds the configuration.
    pub base: PathBuf,
    /// The `User-Agent` of HTTP requests.
    pub user_agent: String,
}

impl BuildContext {
    /// A context for blocks of a configuration in `base`.
    pub fn new(secrets: Arc<dyn SecretResolver>, base: PathBuf, user_agent: String) -> Self {
        Self { secrets, base, user_agent }
    }
}

/// What is wrong with a block, at which place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The place as a JSON pointer within the block ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)): `/server`.
    pub pointer: String,
    /// What is wrong, without a secret in it.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Complaint {
    /// A complaint without help.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), help: None }
    }

    /// The same complaint with what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Reads a block that its schema has already accepted; what serde still refuses becomes one complaint at the root.
    pub fn read<T: DeserializeOwned>(block: &Value) -> Result<T, Vec<Self>> {
        T::deserialize(block).map_err(|error| vec![Self::new("", error.to_string())])
    }
}

/// Generates the schema of a configuration type, inlined, as a fragment of the schema that editors use.
pub fn schema_of<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}
