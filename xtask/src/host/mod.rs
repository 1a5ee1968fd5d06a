//! Hosts: the machines that run commands which need a hypervisor.
//!
//! Owns the choice between this machine and an emulated one, and runs one command there with its
//! streams, exit status, folder and environment passed through.

pub(crate) mod emulated;
pub(crate) mod guest;
mod image;
mod kind;
mod monitor;
mod native;
mod pick;
mod session;
mod waits;
mod wire;

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use crate::error::Error;

pub(crate) use kind::{CLOCK_STOPPED, Kind, Limits};
pub(crate) use native::shell_status;
pub(crate) use pick::{pick, require};

/// `cargo xtask host [--emulated|--measuring] -- COMMAND…`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use the emulated host
    #[arg(long, conflicts_with_all = ["measuring", "host"])]
    emulated: bool,
    /// Use the emulated host whose clock counts instructions
    #[arg(long, conflicts_with = "host")]
    measuring: bool,
    /// Host to use [default: the one that a probe picks]
    #[arg(long, value_enum)]
    host: Option<Kind>,
    /// Stop the command after SECONDS, with status 124
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Memory of the emulated host
    #[arg(long, value_name = "MIB", default_value_t = kind::MEMORY_MIB)]
    memory: u32,
    /// Processor of the emulated host, as for QEMU's -cpu: one of AMD's with svm and npt
    #[arg(long, value_name = "MODEL", default_value = kind::CPU)]
    cpu: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command and returns its exit status.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let kind = match (args.emulated, args.measuring, args.host) {
        (true, ..) => Kind::Emulated,
        (_, true, _) => Kind::Measuring,
        (.., Some(kind)) => kind,
        _ => pick(),
    };
    let Some((program, rest)) = args.command.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(rest);
    let limits = Limits {
        timeout: args.timeout.map(Duration::from_secs),
        memory_mib: args.memory,
        cpu: args.cpu.clone(),
    };
    run(kind, &command, &limits)
}

/// Runs a command in a host, with its arguments, environment and folder, and our standard streams.
/// Returns its exit status as a shell reports it.
pub(crate) fn run(kind: Kind, command: &Command, limits: &Limits) -> Result<u8, Error> {
    match kind {
        Kind::Native => native::run(command, limits),
        Kind::Emulated | Kind::Measuring => emulated::run(kind, command, limits),
    }
}
