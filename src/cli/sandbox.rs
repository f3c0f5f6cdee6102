use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Fqdn;
use crate::sandbox::AriWindow;
use crate::sandbox::HttpFault;
use crate::sandbox::Sandbox;
use crate::sandbox::SandboxOptions;
use crate::sandbox::ZoneOptions;

use super::apply::duration;
use super::error::CliError;
use super::exit::Exit;
use super::ui::Ui;

/// Run an ACME CA and a DNS server on loopback, to rehearse a configuration against
///
/// The CA speaks RFC 8555 with DNS-01, HTTP-01 and TLS-ALPN-01, ARI, profiles and external account binding; the DNS server takes
/// TSIG-signed updates (RFC 2136). Prints what to put into certplan.yaml, then runs until it is interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder to keep keys, ports, accounts and zones in over a restart; without it nothing is kept
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Port of the CA; 0 takes the folder's last one, or a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    acme_port: u16,

    /// Port of the DNS server, UDP and TCP
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    dns_port: u16,

    /// Port of the management endpoint, which tells the ledger
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    management_port: u16,

    /// A zone to be authoritative for; repeatable [default: example.test]
    #[arg(long = "zone", value_name = "NAME")]
    zones: Vec<Fqdn>,

    /// How long certificates are valid, whatever their profile says: 90s, 24h, 30d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    certificate_lifetime: Option<Duration>,

    /// When to suggest renewal: `default`, `now` (as after an incident), `none`, or two fractions of the lifetime: 0.5-0.6
    #[arg(long, value_name = "WINDOW", default_value = "default", value_parser = window)]
    ari_window: AriWindow,

    /// How many of a hundred good nonces to reject
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    bad_nonce_rate: u8,

    /// How many of a hundred requests to answer with 429
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    rate_limit_rate: u8,

    /// What `Retry-After` says with 429
    #[arg(long, value_name = "TIME", value_parser = duration)]
    retry_after: Option<Duration>,

    /// How long a validation waits before it begins
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    validation_delay: Duration,

    /// Issue certificates for Ed25519 keys as well, which public CAs do not
    #[arg(long)]
    ed25519: bool,

    /// Require an external account binding, and print one
    #[arg(long)]
    eab_required: bool,

    /// Decides which requests a rate hits: the same seed and requests give the same faults
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(crate) async fn run(args: Args, ui: Ui) -> Result<Exit, CliError> {
    let sandbox = Sandbox::start(options(args)?).await?;
    ui.data(&sandbox.describe())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    sandbox.shutdown().await?;
    Ok(Exit::Success)
}

fn window(text: &str) -> Result<AriWindow, String> {
    match text {
        "default" => Ok(AriWindow::Default),
        "none" => Ok(AriWindow::None),
        "now" => Ok(AriWindow::Now),
        _ => {
            let fractions =
                text.split_once('-').and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
            match fractions {
                Some((start, end)) if (0.0..1.0).contains(&start) && start < end && end <= 1.0 => {
                    Ok(AriWindow::Fraction { start, end })
                }
                _ => {
                    Err("give `default`, `now`, `none`, or two fractions of the lifetime: 0.5-0.6".to_owned())
                }
            }
        }
    }
}

fn options(args: Args) -> Result<SandboxOptions, CliError> {
    let mut options = SandboxOptions::default();
    let zones: BTreeSet<Fqdn> = args.zones.into_iter().collect();
    options.zones = zones.into_iter().map(ZoneOptions::new).collect();
    options.folder = args.directory;
    options.acme_port = args.acme_port;
    options.dns_port = args.dns_port;
    options.management_port = args.management_port;
    options.ed25519 = args.ed25519;
    options.eab_required = args.eab_required;
    options.seed = args.seed;
    options.faults.certificate_lifetime = args.certificate_lifetime;
    options.faults.validation_delay = args.validation_delay;
    options.faults.retry_after = args.retry_after;
    options.faults.ari = args.ari_window;
    for (fault, percent) in
        [(HttpFault::BadNonce, args.bad_nonce_rate), (HttpFault::RateLimited, args.rate_limit_rate)]
    {
        if percent > 0 {
            options.faults = options.faults.with(fault, percent);
        }
    }
    Ok(options)
}
