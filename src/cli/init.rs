use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use certplan_provider::message_of;
use secrecy::ExposeSecret;

use crate::config;
use crate::config::InitOptions;
use crate::config::Severity;
use crate::config::Source;
use crate::config::Sources;
use crate::model::CertName;
use crate::registry::BUILTIN;
use crate::state::IdentityFile;
use crate::state::generate_identity;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project;
use super::ui::Ui;

/// Write a first configuration, and an age identity if there is none
///
/// The configuration begins on the CA's staging directory; `certplan promote` moves it to production. In a folder that has a
/// configuration, nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The names of the certificate: shop.example.com, '*.shop.example.com'
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// The kind of DNS provider
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(kinds()))]
    dns: String,

    /// The folder to put the certificate into
    #[arg(long, value_name = "DIR", default_value = "./out")]
    to: String,

    /// E-mail address for the account at the CA
    #[arg(long, value_name = "ADDRESS")]
    contact: Option<String>,

    /// Begin with the CA's production directory
    #[arg(long)]
    production: bool,
}

fn kinds() -> Vec<&'static str> {
    BUILTIN.dns.iter().map(|factory| factory.kind).collect()
}

pub(crate) fn run(args: &Args, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let path = &global.config;
    if path.symlink_metadata().is_ok() {
        return Err(CliError::new(format!("`{}` is there already; nothing was changed", path.display()))
            .with_help("edit it, or write another with `--config PATH`"));
    }
    for name in &args.names {
        CertName::new(name).map_err(|error| {
            CliError::usage(format!("`{name}` cannot be in a certificate: {}", message_of(&error)))
        })?;
    }
    let identities = project::identities(ui)?;
    let (recipient, generated) = match identities.recipients().into_iter().next() {
        Some(recipient) => (recipient, None),
        None => {
            let identity = generate_identity();
            (identity.recipient.clone(), Some(identity))
        }
    };
    let mut options = InitOptions::new(args.names.clone(), args.dns.as_str(), recipient);
    options.to = Some(args.to.clone());
    options.contact.clone_from(&args.contact);
    options.production = args.production;
    let text = config::init(&options, &BUILTIN);
    check(&text, path)?;
    let made = generated.map(|identity| keep(&identity)).transpose()?;
    edge::create_file(path, text.as_bytes())?;
    ui.say(&format!("Wrote {}", path.display()));
    if let Some(identity) = made {
        ui.say(&format!(
            "Wrote {identity}\nKeep a copy of it in a safe place: without it, nobody can open what is sealed."
        ));
    }
    let flag = if path == Path::new("certplan.yaml") {
        String::new()
    } else {
        format!(" --config {}", path.display())
    };
    let look = match text.contains(config::PLACEHOLDER) {
        true => format!("Replace each {} in the file, and look through the rest", config::PLACEHOLDER),
        false => "Look through the file".to_owned(),
    };
    let exports: String =
        variables(&text).map(|name| format!("    export {name}=...\n")).collect::<Vec<_>>().concat();
    ui.say(&format!("\n{look}. Then:\n\n{exports}    certplan plan{flag}\n    certplan apply{flag}"));
    Ok(Exit::Success)
}

/// The variables that a configuration of ours reads its secrets from, in their order.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let named = |rest: &'_ str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    text.split("{ env: ").skip(1).filter_map(move |rest| rest.get(..named(rest)?))
}

/// Refuses what `validate` would, but for what the user has yet to replace.
fn check(text: &str, path: &Path) -> Result<(), CliError> {
    let text = text.replace(config::PLACEHOLDER, "placeholder.example.com");
    let base = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let sources = Sources::new(vec![Source::new(path.to_string_lossy(), text)]);
    let Err(error) = config::parse(sources, base, &BUILTIN) else { return Ok(()) };
    let Some(diagnostics) = error.diagnostics() else { return Err(error.into()) };
    let errors: Vec<&str> = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| diagnostic.message.as_str())
        .collect();
    Err(CliError::usage(format!("{}; nothing was written", errors.join("; "))))
}

/// Writes a new identity where certplan looks for it, and returns the path.
fn keep(identity: &IdentityFile) -> Result<String, CliError> {
    let home = edge::home().ok_or_else(|| {
        CliError::new("there is no home folder to keep an age identity in")
            .with_help("set CERTPLAN_AGE_KEY_FILE to the path of an identity")
    })?;
    let folder = home.join(".config/certplan");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| CliError::new(format!("cannot make `{}`: {error}", folder.display())))?;
    let path = folder.join("identity.txt");
    edge::write_secret(&path, identity.text.expose_secret().as_bytes())?;
    Ok(path.display().to_string())
}
