//! Hosts: the machines that run commands which need a hypervisor.
//!
//! Owns the choice between this machine and an emulated one, and runs one command there with its
//! streams, exit status, folder and environment passed through. An emulated one may be of another
//! architecture; then the command must be, too.

pub(crate) mod emulated;
pub(crate) mod guest;
mod image;
mod kind;
mod monitor;
mod mounts;
mod native;
mod pick;
mod platform;
pub(crate) mod root;
mod session;
mod waits;
mod wire;

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use supermachine_kernel::Arch;

use crate::assets;
use crate::error::Error;

pub(crate) use kind::{CLOCK_STOPPED, Kind, Options};
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
    /// Architecture of the emulated host and of the command [default: the machine's own]
    #[arg(long, value_name = "ARCH", value_parser = assets::arch)]
    arch: Option<Arch>,
    /// Stop the command after SECONDS, with status 124
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Memory of the emulated host
    #[arg(long, value_name = "MIB", default_value_t = kind::MEMORY_MIB)]
    memory: u32,
    /// Processor of the emulated host, as for QEMU's -cpu: one of AMD's with svm and npt, or an
    /// arm64 one with EL2
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Debian's and OCI's name of an architecture.
pub(crate) fn debian_name(arch: Arch) -> &'static str {
    platform::of(arch).debian
}

/// Runs the command and returns its exit status.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let arch = args.arch.unwrap_or(Arch::host());
    let kind = match (args.emulated, args.measuring, args.host) {
        (true, ..) => Kind::Emulated,
        (_, true, _) => Kind::Measuring,
        (.., kind) => pick(arch, kind)?,
    };
    let Some((program, rest)) = args.command.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(rest);
    let options = Options {
        arch,
        timeout: args.timeout.map(Duration::from_secs),
        memory_mib: args.memory,
        cpu: args.cpu.clone(),
    };
    run(kind, &command, &options)
}

/// Runs a command in a host, with its arguments, environment and folder, and our standard streams.
/// Returns its exit status as a shell reports it.
pub(crate) fn run(kind: Kind, command: &Command, options: &Options) -> Result<u8, Error> {
    match kind {
        Kind::Native => native::run(command, options),
        Kind::Emulated | Kind::Measuring => emulated::run(kind, command, options),
    }
}
