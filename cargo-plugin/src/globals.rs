//! The options that every command takes.

use std::path::PathBuf;

use clap::ValueHint;

/// The options that every command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// The folder of snapshots [default: $XDG_DATA_HOME/supermachine or ~/.local/share/supermachine]
    #[arg(long, global = true, env = "SUPERMACHINE_STORE", value_name = "DIR")]
    #[arg(value_hint = ValueHint::DirPath, hide_env_values = true, display_order = 900)]
    pub(crate) store: Option<PathBuf>,
    /// Print only results and errors
    #[arg(short, long, global = true, display_order = 901)]
    pub(crate) quiet: bool,
}
