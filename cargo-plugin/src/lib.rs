//! The `supermachine` and `cargo supermachine` commands.
//!
//! Owns what a user sees at a terminal: arguments, progress, reports, exit statuses.
//! `supermachine-baker` bakes images and `supermachine` runs machines; this crate calls them.
//! Standard output carries only the result of a command; everything else goes to standard error.

mod background;
mod bundle;
mod cargo_cli;
mod cli;
mod codesign;
mod commands;
mod container;
mod copy;
mod detach;
mod docker_options;
mod error;
mod event_filter;
mod events;
mod first_word;
mod folders;
mod format;
mod globals;
mod image_name;
mod init;
mod jobs;
mod label;
mod machine_size;
mod machines;
mod moment;
mod network;
mod output_format;
mod package;
mod ports;
mod process;
mod progress;
mod report;
mod restart_policy;
mod signal_names;
mod stopped;
mod store;
mod stream_log;
mod supervisor;
mod terminal;
mod variables;
mod variant;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command `supermachine`.
#[must_use]
pub fn supermachine() -> ExitCode {
    cli::execute(std::env::args_os().collect()).into()
}

/// Runs the command `cargo-supermachine`, which cargo starts for `cargo supermachine`.
#[must_use]
pub fn cargo_supermachine() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    // Cargo passes the subcommand's name as the first argument.
    if arguments.get(1).is_some_and(|first| first == "supermachine") {
        arguments.remove(1);
    }
    cargo_cli::execute(arguments).into()
}
