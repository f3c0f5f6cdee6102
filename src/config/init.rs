//! The configuration to begin with.

use serde_json::Value;

use super::schema;
use crate::registry::Registry;

/// What stands where only the user knows the value; no configuration with it is valid.
pub(crate) const PLACEHOLDER: &str = "REPLACE-ME";

/// The comment beside a staging directory.
pub(crate) const STAGING_REMARK: &str =
    "letsencrypt-staging rehearses, browsers do not trust it; `certplan promote letsencrypt` ends that";

/// What a first configuration is about.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct InitOptions {
    /// The names of the certificate; the first gives it its name.
    pub names: Vec<String>,
    /// The kind of DNS provider.
    pub dns: String,
    /// The folder to write the certificate to, for a target of the kind `files`.
    pub to: Option<String>,
    /// The age recipient of everything that is sealed.
    pub recipient: String,
    /// An e-mail address for the account.
    pub contact: Option<String>,
    /// Whether to begin with the CA's production directory rather than with its staging.
    pub production: bool,
}

impl InitOptions {
    /// Options for names that a DNS provider of this kind proves, sealed to this recipient.
    pub fn new(names: Vec<String>, dns: impl Into<String>, recipient: impl Into<String>) -> Self {
        Self { names, dns: dns.into(), recipient: recipient.into(), ..Self::default() }
    }
}

/// Renders a short configuration with comments. It is valid when the options are.
///
/// Values that the options do not give, such as the server of a DNS provider, are examples: the comment beside them
/// says to replace them.
pub fn render(options: &InitOptions, registry: &Registry) -> String {
    let name = certificate_name(options.names.first().map_or("", String::as_str));
    let names: Vec<String> = options.names.iter().map(|name| scalar(name)).collect();
    let (directory, remark) = match options.production {
        true => ("letsencrypt", "Let's Encrypt's production"),
        false => ("letsencrypt-staging", STAGING_REMARK),
    };
    let contact = options
        .contact
        .as_ref()
        .map_or_else(String::new, |contact| format!("      contact: [{}]\n", scalar(contact)));
    let mut text = format!(
        "# yaml-language-server: $schema=https://raw.githubusercontent.com/certplan/certplan/main/schema/certplan.schema.json\n\
         version: 1\n\
         \n\
         encryption:\n\
         \x20 recipients: [{}] # who can read the sealed keys\n\
         \n\
         issuers:\n\
         \x20 letsencrypt:\n\
         \x20   acme:\n\
         \x20     directory: {directory} # {remark}\n\
         {contact}\
         \x20     agree_tos: true # https://letsencrypt.org/repository/\n\
         \n\
         dns:\n\
         \x20 {}:\n",
        scalar(&options.recipient),
        options.dns.replace('_', "-"),
    );
    dns_block(&mut text, &options.dns, registry);
    text.push_str(&format!(
        "\n\
         defaults:\n\
         \x20 issuer: letsencrypt\n\
         \n\
         certificates:\n\
         \x20 {name}:\n\
         \x20   names: [{}]\n",
        names.join(", "),
    ));
    if let Some(to) = &options.to {
        text.push_str(&format!("    deploy:\n      - files: {{ directory: {} }}\n", scalar(to)));
    }
    text
}

/// The block of a kind, with what its schema requires.
fn dns_block(text: &mut String, kind: &str, registry: &Registry) {
    let schema = registry.dns_factory(kind).map(|factory| schema::normalised((factory.schema)().to_value()));
    let required = schema.as_ref().map(|schema| required(schema)).unwrap_or_default();
    if required.is_empty() {
        text.push_str(&format!("    {kind}: {{}}\n"));
        return;
    }
    text.push_str(&format!("    {kind}:\n"));
    for (key, property) in required {
        if let Some(remark) = remark(property) {
            text.push_str(&format!("      # {remark}\n"));
        }
        text.push_str(&format!("      {key}: {}\n", sketch(kind, key, property)));
    }
}

/// What a key is for, in a line: the first sentence of its documentation.
fn remark(property: &Value) -> Option<String> {
    let description = property.get("description")?.as_str()?;
    let words: Vec<&str> = description.split_whitespace().collect();
    let text = words.join(" ");
    let sentence = text.split(". ").next().unwrap_or_default().trim_end_matches('.');
    (!sentence.is_empty()).then(|| sentence.to_owned())
}

fn required(schema: &Value) -> Vec<(&str, &Value)> {
    let list = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|key| {
        let key = key.as_str()?;
        Some((key, schema.get("properties")?.get(key)?))
    })
    .collect()
}

fn sketch(kind: &str, key: &str, property: &Value) -> String {
    let first =
        |list: &str| property.get(list).and_then(Value::as_array).and_then(|list| list.first()).cloned();
    let example = property.get("default").cloned().or_else(|| first("examples")).or_else(|| first("enum"));
    if let Some(example) = example {
        return example.as_str().map_or_else(|| example.to_string(), scalar);
    }
    if property.get("properties").is_some_and(Value::is_object) {
        let inner: Vec<String> = required(property)
            .into_iter()
            .map(|(inner, property)| {
                format!("{inner}: {}", sketch(kind, &format!("{key}_{inner}"), property))
            })
            .collect();
        return format!("{{ {} }}", inner.join(", "));
    }
    match property.get("type").and_then(Value::as_str) {
        Some("integer" | "number") => {
            property.get("minimum").map_or_else(|| "1".to_owned(), Value::to_string)
        }
        Some("boolean") => "true".to_owned(),
        Some("array") => "[]".to_owned(),
        Some("string") => PLACEHOLDER.to_owned(),
        _ => format!("{{ env: {}_{} }}", kind.to_uppercase(), key.to_uppercase()),
    }
}

/// A name for the certificate of a DNS name.
fn certificate_name(name: &str) -> String {
    let name = name.trim_start_matches("*.").to_lowercase();
    let first = name.split('.').next().unwrap_or_default();
    let clean: String = first
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .take(63)
        .collect();
    let clean = clean.trim_start_matches('-');
    if clean.is_empty() || clean == "www" { "main".to_owned() } else { clean.to_owned() }
}

/// A text as YAML, in quotes where it needs them.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '@' | '+'))
        && super::node::not_a_text(text).is_none();
    if plain { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}
