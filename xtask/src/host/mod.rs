//! Hosts: where commands that need a hypervisor run.
//!
//! Owns the choice between this machine and an emulated one, and running one command
//! in it with its output, exit status, folder and environment passed through.

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

pub(crate) use kind::{Kind, Limits, STOOD_STILL};
pub(crate) use native::shell_status;
pub(crate) use pick::{pick, require};

/// `cargo xtask host [--emulated|--measuring] -- COMMAND…`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The emulated host, whatever this machine can do.
    #[arg(long, conflicts_with_all = ["measuring", "host"])]
    emulated: bool,
    /// The emulated host with a clock that counts instructions.
    #[arg(long, conflicts_with = "host")]
    measuring: bool,
    /// The host to use, instead of the one that a probe picks.
    #[arg(long, value_enum)]
    host: Option<Kind>,
    /// End the command after so many seconds, with status 124.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The emulated host's memory.
    #[arg(long, value_name = "MIB", default_value_t = kind::MEMORY_MIB)]
    memory: u32,
    /// The emulated host's processor, as QEMU's -cpu takes it; an AMD one with svm and npt, or one
    /// that is told to be.
    #[arg(long, value_name = "MODEL", default_value = kind::CPU)]
    cpu: String,
    /// The command and its arguments.
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

/// Runs a command in a host; its arguments, environment and folder count, its
/// standard streams are ours. Returns its exit status as a shell gives it.
pub(crate) fn run(kind: Kind, command: &Command, limits: &Limits) -> Result<u8, Error> {
    match kind {
        Kind::Native => native::run(command, limits),
        Kind::Emulated | Kind::Measuring => emulated::run(kind, command, limits),
    }
}
