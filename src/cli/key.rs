use std::path::PathBuf;

use crate::acme::CertificateKey;
use crate::model::Address;
use crate::state::Place;

use super::args::Global;
use super::edge;
use super::error::CliError;
use super::exit::Exit;
use super::project::Project;
use super::renew;
use super::state;
use super::ui::Ui;

/// Take private keys out of state
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a certificate's private key, as PKCS#8 PEM: the way out when everything else fails
    ///
    /// Needs an age identity that the key is sealed to. The file is created with mode 0600 and must not exist.
    Export {
        /// The certificate: certificate/shop, or just shop
        #[arg(value_parser = renew::address)]
        address: Address,

        /// The file to write; `-` prints the key on stdout
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

pub(crate) async fn run(command: Command, global: &Global, ui: Ui) -> Result<Exit, CliError> {
    let Command::Export { address, out } = command;
    let project = Project::load(global, ui)?;
    let Some(name) = address.certificate() else {
        return Err(CliError::usage("give the address of a certificate"));
    };
    let state = project.state();
    let stored = state.certificate(name).await?.ok_or_else(|| state::unknown(&address))?;
    let current = stored
        .content
        .current
        .as_ref()
        .ok_or_else(|| CliError::new(format!("`{address}` has no certificate yet")))?;
    let sealer =
        project.sealer(ui)?.ok_or_else(|| CliError::new("the configuration has no `encryption:`"))?;
    let lineage = state.lineage().await?.unwrap_or_default();
    let mut opened = sealer.open(&Place { lineage: lineage.clone(), address: address.clone() }, &current.key);
    for former in &stored.content.formerly {
        if opened.is_ok() {
            break;
        }
        let place = Place { lineage: lineage.clone(), address: Address::Certificate(former.clone()) };
        opened = sealer.open(&place, &current.key);
    }
    let key = CertificateKey::from_pkcs8(&opened?)?.to_private_key();
    let pem = key.expose_pem();
    if out.as_os_str() == "-" {
        ui.data(pem)?;
    } else {
        edge::write_secret(&out, pem.as_bytes())?;
        ui.say(&format!("The private key of {address} is in {}", out.display()));
    }
    Ok(Exit::Success)
}
