//! The fixed part of the language as types: their documentation is what editors show.
//!
//! Only schemas are made of them. The configuration is read from the tree, because serde would stop at the first error
//! and lose the places.
#![expect(dead_code, reason = "the fields are the keys of the schema; nothing is deserialised into them")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::json;

use crate::model::KeyType;
use crate::model::SecretRef;
use crate::model::StateBackend;

/// What names of things look like; kept equal to `model::Name` by a test.
pub(super) const NAME: &str = "^[a-z0-9][a-z0-9-]{0,62}$";

/// A certplan configuration: which certificates are wanted, who issues them, which DNS provider proves control of
/// their names, and where they are deployed.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Config {
    /// The version of this language: 1.
    #[schemars(extend("enum" = [1]))]
    version: u32,
    /// The project that the certificates belong to. Several projects can share a state; none plans another's.
    #[schemars(default = "project", extend("pattern" = NAME))]
    project: Option<String>,
    /// Where state is kept: facts about certificates and their sealed keys.
    state: Option<State>,
    /// Who can read what is sealed in state. Without it nothing is issued.
    encryption: Option<Encryption>,
    /// Who issues certificates, by name. A well-known name gives the directory: letsencrypt, letsencrypt-staging,
    /// zerossl, google, google-staging, sslcom, sslcom-ecc, actalis.
    #[schemars(extend("propertyNames" = json!({ "pattern": NAME })))]
    issuers: Option<BTreeMap<String, Issuer>>,
    /// The DNS providers that prove control of names, by name.
    #[schemars(extend("propertyNames" = json!({ "pattern": NAME })))]
    dns: Option<BTreeMap<String, Dns>>,
    /// Where certificates are deployed, by name.
    #[schemars(extend("propertyNames" = json!({ "pattern": NAME })))]
    targets: Option<BTreeMap<String, Target>>,
    /// What certificates have unless they say otherwise.
    defaults: Option<Defaults>,
    /// The certificates that are wanted, by name. Removing one plans its removal from its targets.
    #[schemars(extend("propertyNames" = json!({ "pattern": NAME })))]
    certificates: BTreeMap<String, Certificate>,
    /// Certificates that have another name now, so that they are not removed and issued again.
    moved: Option<Vec<Moved>>,
}

fn project() -> String {
    "default".to_owned()
}

/// A kind of store as the only key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct State {
    /// A folder on this machine.
    local: Local,
}

/// A folder on this machine.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Local {
    /// The folder, relative to the configuration's folder, or absolute.
    #[schemars(default = "state_path")]
    path: Option<String>,
}

fn state_path() -> String {
    StateBackend::FOLDER.to_owned()
}

/// Who can read what is sealed in state.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Encryption {
    /// age recipients (`age1...`) of everything that is sealed: people and CI.
    #[schemars(length(min = 1), extend("examples" = [["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]]))]
    recipients: Vec<String>,
    /// When given, certificate keys are sealed to these age recipients only, so that whoever renews cannot read keys back.
    keys: Option<Vec<String>>,
}

/// A kind of issuer as the only key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Issuer {
    /// An ACME server (RFC 8555).
    acme: Acme,
}

/// An ACME server and the account there.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Acme {
    /// The URL of the ACME directory, or a well-known name such as `letsencrypt-staging`. Not needed when the issuer
    /// itself has a well-known name.
    #[schemars(extend("examples" = ["letsencrypt-staging", "https://ca.corp.example/acme/directory"]))]
    directory: Option<String>,
    /// E-mail addresses for the account.
    #[schemars(extend("examples" = [["ops@example.com"]]))]
    contact: Option<Vec<String>>,
    /// Says that you agree to the CA's terms of service. Has to be `true`.
    agree_tos: bool,
    /// A PEM file with the roots to trust for this server, beside the system's.
    ca_bundle: Option<String>,
    /// Other hosts that URLs of this server may name.
    allow_hosts: Option<Vec<String>>,
    /// An external account binding: what the CA gave you to open an account.
    eab: Option<Eab>,
    /// The key of an existing account: ECDSA (P-256, P-384) or RSA (2048, 3072, 4096), in PEM or as certbot's JWK. Named
    /// later, or under another name, it takes that account over in the place of the one in use; it is read then, and kept
    /// sealed in state.
    account_key: Option<SecretRef>,
}

/// An external account binding (RFC 8555, section 7.3.4).
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Eab {
    /// Where the key identifier is found.
    key_id: SecretRef,
    /// Where the HMAC key is found, in base64url or base64.
    hmac_key: SecretRef,
}

/// A DNS provider: its kind as a key, and what all kinds have.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Dns {
    /// The only zones to use. Without it, those that the provider has.
    #[schemars(extend("examples" = [["example.com"]]))]
    zones: Option<Vec<String>>,
    /// How to find out that a value can be seen by the CA: ask the zone's authoritative servers, trust the provider's
    /// word, ask certain resolvers, or wait.
    #[schemars(extend("default" = "authoritative"))]
    propagation: Option<Propagation>,
    /// Whether the zone's name servers may have private, loopback or link-local addresses. Without it they are not asked:
    /// the CA cannot reach them, and a zone in public DNS could make certplan ask servers of your network.
    #[schemars(extend("default" = false))]
    allow_private_servers: Option<bool>,
}

/// How to find out that a value can be seen.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Propagation {
    /// Ask every authoritative server of the zone.
    Authoritative,
    /// Trust the provider's own confirmation.
    Provider,
    /// Ask these resolvers, `ADDRESS:PORT`.
    #[schemars(extend("additionalProperties" = false))]
    Resolvers(#[schemars(length(min = 1), extend("examples" = [["192.0.2.53:53"]]))] Vec<String>),
    /// Wait for a fixed time.
    #[schemars(extend("additionalProperties" = false))]
    Wait(#[schemars(extend("examples" = ["60s"], "pattern" = "^[1-9][0-9]*(s|m|h)$"))] String),
}

/// A deploy target: its kind as the only key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Target {}

/// What certificates have unless they say otherwise.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Defaults {
    /// The issuer, by its name in `issuers`.
    issuer: Option<String>,
    /// What key certificates have.
    key: Option<Key>,
    /// The profile, for CAs that offer several. Without it, the CA chooses.
    profile: Option<String>,
    /// The common name of a root or intermediate: the chain that holds it is chosen among those that the CA offers.
    preferred_chain: Option<String>,
    /// When to renew. Without it: when the CA suggests, else when a third of the lifetime is left.
    renew: Option<Renew>,
    /// Labels to select certificates by, as in `-l team=shop`.
    #[schemars(extend("propertyNames" = json!({ "pattern": LABEL })))]
    labels: Option<BTreeMap<String, String>>,
}

const LABEL: &str = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$";

/// What key a certificate has.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Key {
    /// The type of the key.
    #[schemars(rename = "type", extend("default" = "ecdsa-p256"))]
    key_type: Option<KeyType>,
    /// Whether each new certificate has a new key.
    #[schemars(extend("default" = "always"))]
    rotation: Option<Rotation>,
}

/// Whether each new certificate has a new key.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Rotation {
    /// A new key with every certificate.
    Always,
    /// The same key as long as its type stays.
    Never,
}

/// When to renew.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Renew {
    /// This much before the end of the validity: a fraction of the lifetime (`1/3`) or a time (`20d`, `36h`).
    #[schemars(extend("pattern" = "^([0-9]{1,6}/[0-9]{1,6}|[1-9][0-9]{0,5}(m|h|d|w))$", "examples" = ["1/3", "20d"]))]
    before: String,
}

/// A certificate that is wanted.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Certificate {
    /// The DNS names. Their order means nothing. A wildcard is `"*."` before a domain, in quotes.
    #[schemars(length(min = 1), extend("examples" = [["shop.example.com", "*.shop.example.com"]]))]
    names: Vec<String>,
    /// The issuer, by its name in `issuers`.
    issuer: Option<String>,
    /// What key it has.
    key: Option<Key>,
    /// The profile, for CAs that offer several. Without it, the CA chooses.
    profile: Option<String>,
    /// The common name of a root or intermediate: the chain that holds it is chosen among those that the CA offers.
    preferred_chain: Option<String>,
    /// When to renew. Without it: when the CA suggests, else when a third of the lifetime is left.
    renew: Option<Renew>,
    /// Labels to select certificates by, as in `-l team=shop`.
    #[schemars(extend("propertyNames" = json!({ "pattern": LABEL })))]
    labels: Option<BTreeMap<String, String>>,
    /// Where to deploy it.
    deploy: Option<Vec<Deploy>>,
    /// Where it is served: a deployment counts only when it is seen there.
    verify: Option<OneOrMany>,
}

/// A place to deploy to: a target by name, or one written in place, and the parameters of its kind.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Deploy {
    /// A target, by its name in `targets`.
    target: Option<String>,
    /// What removing this entry does: remove the certificate from the target, or keep it there.
    #[schemars(extend("default" = "remove"))]
    on_remove: Option<OnRemove>,
    /// Where the target serves it: the deployment counts only when it is seen there.
    verify: Option<OneOrMany>,
}

/// What removing the entry does.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum OnRemove {
    /// The target keeps the certificate, and certplan forgets it.
    Keep,
    /// The certificate is removed from the target.
    Remove,
}

/// One place, or a list of places.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum OneOrMany {
    /// One place.
    One(Verify),
    /// Several places.
    Many(Vec<Verify>),
}

/// A place where the certificate is served.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Verify {
    /// The host and port to connect to with TLS.
    #[schemars(extend("examples" = ["shop.example.com:443"]))]
    tls: String,
    /// The server name to send (SNI). Without it: the host, or a name of the certificate when the host is an address.
    sni: Option<String>,
}

/// A certificate that has another name now.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Moved {
    /// The name before: `certificate.NAME`.
    #[schemars(extend("pattern" = CERTIFICATE, "examples" = ["certificate.old"]))]
    from: String,
    /// The name now: `certificate.NAME`.
    #[schemars(extend("pattern" = CERTIFICATE, "examples" = ["certificate.new"]))]
    to: String,
}

const CERTIFICATE: &str = "^certificate[./][a-z0-9][a-z0-9-]{0,62}$";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    #[test]
    fn the_pattern_of_names_is_that_of_the_model() {
        let pattern = regex::Regex::new(NAME).unwrap();
        let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
        for text in ["a", "0", "a-", "-a", "A", "a_b", "", "a.b", "..", "a\n", "é", &longest, &too_long] {
            assert_eq!(pattern.is_match(text), Name::new(text).is_ok(), "{text:?}");
        }
    }
}
