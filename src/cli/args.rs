//! Arguments that several commands share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::model::Selection;

use super::edge;
use super::error::CliError;

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration: a file, or a folder whose *.yaml and *.yml are merged [env: CERTPLAN_CONFIG] [default: certplan.yaml]
    // Not clap's own `env`: there an empty variable is an error, and CI systems pass what is not set as empty.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value_os_t = edge::configuration(),
        hide_default_value = true
    )]
    pub(crate) config: PathBuf,

    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,

    /// Say only what went wrong
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Color {
    /// Always
    Always,
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Never
    Never,
}

/// Which addresses a command works on.
// A heading of the whole struct would go on over the arguments that follow where it is flattened.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectionArgs {
    /// Work only on addresses that match the glob: certificate/shop, 'deployment/*/edge'; repeatable
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    address: Vec<String>,

    /// Leave out addresses that match the glob; repeatable
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    exclude: Vec<String>,

    /// Work only on certificates with the label; repeatable
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", help_heading = "Selection")]
    labels: Vec<String>,
}

impl SelectionArgs {
    /// The selection.
    pub(crate) fn selection(&self) -> Result<Selection, CliError> {
        let mut labels = BTreeMap::new();
        for label in &self.labels {
            let (key, value) = label.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                CliError::usage(format!("`--label {label}` is not KEY=VALUE"))
                    .with_help("for example `--label team=checkout`")
            })?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(Selection { addresses: self.address.clone(), exclude: self.exclude.clone(), labels })
    }
}
