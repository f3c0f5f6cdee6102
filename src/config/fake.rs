//! Kinds for the tests of the language, with small blocks of their own.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use certplan_provider::BuildContext;
use certplan_provider::Bundle;
use certplan_provider::Capabilities;
use certplan_provider::Complaint;
use certplan_provider::Context;
use certplan_provider::DeployTarget;
use certplan_provider::Deployed;
use certplan_provider::DnsFactory;
use certplan_provider::KeyOrigin;
use certplan_provider::KeyType;
use certplan_provider::ProviderError;
use certplan_provider::ReadBack;
use certplan_provider::Receipt;
use certplan_provider::SecretRef;
use certplan_provider::Slot;
use certplan_provider::TargetFactory;
use certplan_provider::Update;
use certplan_provider::schema_of;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::registry::Registry;

pub(crate) const REGISTRY: Registry = Registry { dns: DNS, targets: TARGETS };

/// An address that `vault_kv` does not build a target for.
pub(crate) const UNREACHABLE: &str = "https://unreachable.example.com";

const DNS: &[DnsFactory] = &[
    DnsFactory {
        kind: "rfc2136",
        schema: schema_of::<Rfc2136>,
        check: |block| {
            let block: Rfc2136 = Complaint::read(block)?;
            match block.server.rsplit_once(':') {
                Some(_) => Ok(()),
                None => Err(vec![
                    Complaint::new("/server", "the port is missing")
                        .with_help("for example `ns.example.com:53`"),
                ]),
            }
        },
        build: |_, _| Err(Vec::new()),
    },
    DnsFactory {
        kind: "cloudflare",
        schema: schema_of::<Cloudflare>,
        check: |_| Ok(()),
        build: |_, _| Err(Vec::new()),
    },
];

const TARGETS: &[TargetFactory] = &[
    TargetFactory {
        kind: "files",
        schema: schema_of::<Files>,
        parameters: schema_of::<FilesParameters>,
        check: |block| Complaint::read::<Files>(block).map(|_| ()),
        build: |block, context| FilesTarget::build(block, context),
    },
    TargetFactory {
        kind: "vault_kv",
        schema: schema_of::<Vault>,
        parameters: schema_of::<VaultParameters>,
        check: |_| Ok(()),
        build: |block, _| {
            let unreachable = block.pointer("/address").is_some_and(|address| address == UNREACHABLE);
            let complaint = Complaint::new("/address", "the address is not reachable through this proxy");
            Err(if unreachable { vec![complaint] } else { Vec::new() })
        },
    },
];

/// A server that takes signed updates.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rfc2136 {
    /// The server, `HOST:PORT`.
    #[schemars(extend("examples" = ["ns.example.com:53"]))]
    server: String,
    /// How long to wait for an answer, in seconds.
    #[serde(default)]
    #[schemars(range(min = 1, max = 300))]
    #[expect(dead_code, reason = "part of the schema")]
    timeout: Option<u16>,
    /// The key that signs updates.
    #[expect(dead_code, reason = "part of the schema")]
    tsig: Option<Tsig>,
}

/// A key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "part of the schema")]
struct Tsig {
    /// Its name.
    name: String,
    /// Its algorithm.
    algorithm: Option<Algorithm>,
    /// Its secret.
    secret: SecretRef,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Algorithm {
    /// SHA-256.
    HmacSha256,
    /// SHA-512.
    HmacSha512,
}

/// A DNS service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "part of the schema")]
struct Cloudflare {
    /// A token that can edit the zones.
    api_token: SecretRef,
}

/// A folder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Files {
    /// The folder to write to.
    #[schemars(extend("examples" = ["/etc/ssl/shop"]))]
    directory: PathBuf,
    /// A command that makes the server read the files.
    #[serde(default)]
    #[expect(dead_code, reason = "part of the schema")]
    reload: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilesParameters {
    /// The mode of the files, in quotes.
    #[schemars(extend("pattern" = "^0[0-7]{3}$", "examples" = ["0640"]))]
    mode: Option<String>,
    /// The owner of the files.
    #[expect(dead_code, reason = "part of the schema")]
    owner: Option<String>,
}

/// A secret store.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "part of the schema")]
struct Vault {
    /// Its address.
    address: String,
    /// The token.
    token: Option<SecretRef>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "part of the schema")]
struct VaultParameters {
    /// The path in the store.
    path: String,
}

#[derive(Debug)]
struct FilesTarget {
    directory: PathBuf,
}

impl FilesTarget {
    fn build(block: &Value, _: &BuildContext) -> Result<Arc<dyn DeployTarget>, Vec<Complaint>> {
        let block: Files = Complaint::read(block)?;
        Ok(Arc::new(Self { directory: block.directory }))
    }
}

#[async_trait]
impl DeployTarget for FilesTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            read_back: ReadBack::Certificate,
            update: Update::InPlace,
            compare_and_swap: false,
            key_types: KeyType::ALL.to_vec(),
            max_size: None,
            key_origin: KeyOrigin::Local,
        }
    }

    fn slot(&self, certificate: &str, parameters: &Value) -> Result<Slot, Vec<Complaint>> {
        let read: FilesParameters = Complaint::read(parameters)?;
        if read.mode.as_deref() == Some("0777") {
            return Err(vec![Complaint::new("/mode", "the key would be readable by everyone")]);
        }
        let location = self.directory.join(certificate).display().to_string();
        Ok(Slot { location, parameters: parameters.clone() })
    }

    async fn observe(&self, _: &Context, _: &Slot) -> Result<Option<Deployed>, ProviderError> {
        Ok(None)
    }

    async fn deploy(
        &self,
        _: &Context,
        _: &Slot,
        _: &Bundle,
        _: Option<&Deployed>,
    ) -> Result<Receipt, ProviderError> {
        Err(ProviderError::invalid("not in these tests"))
    }

    async fn commit(&self, _: &Context, _: &Slot, _: &Receipt) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn rollback(&self, _: &Context, _: &Slot, _: &Receipt) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn remove(
        &self,
        _: &Context,
        _: &Slot,
        _: Option<&Deployed>,
        _: Option<&Receipt>,
    ) -> Result<(), ProviderError> {
        Ok(())
    }
}
