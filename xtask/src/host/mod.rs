//! Hosts: where commands that need a hypervisor run.
//!
//! Owns the choice between this machine and an emulated one, and running one command
//! in it with its output, exit status, folder and environment passed through.

pub(crate) mod emulated;
pub(crate) mod guest;
mod image;
mod pick;
mod waits;
mod wire;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use clap::ValueEnum;

use crate::command;
use crate::error::Error;

pub(crate) use pick::{pick, require};

/// The kinds of host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// This machine, with its own hypervisor.
    Native,
    /// A whole machine emulated with a complete KVM, on any machine.
    Emulated,
    /// The emulated host with a clock that counts instructions.
    Measuring,
}

impl Kind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
            Self::Measuring => "measuring",
        }
    }
}

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
    #[arg(long, value_name = "MIB", default_value_t = emulated::MEMORY_MIB)]
    memory: u32,
    /// The emulated host's processor, as QEMU's -cpu takes it; an AMD one with svm and npt, or one
    /// that is told to be.
    #[arg(long, value_name = "MODEL", default_value = emulated::CPU)]
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

/// What a command in a host may use.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// The emulated host's memory.
    pub(crate) memory_mib: u32,
    /// The emulated host's processor.
    pub(crate) cpu: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: None, memory_mib: emulated::MEMORY_MIB, cpu: emulated::CPU.to_owned() }
    }
}

/// Runs a command in a host; its arguments, environment and folder count, its
/// standard streams are ours. Returns its exit status as a shell gives it.
pub(crate) fn run(kind: Kind, command: &Command, limits: &Limits) -> Result<u8, Error> {
    match kind {
        Kind::Native => native(command, limits),
        Kind::Emulated | Kind::Measuring => emulated::run(kind, command, limits),
    }
}

fn native(command: &Command, limits: &Limits) -> Result<u8, Error> {
    let mut copy = match limits.timeout {
        None => Command::new(command.get_program()),
        Some(limit) => {
            let mut timeout = Command::new("timeout");
            timeout.arg(limit.as_secs().to_string()).arg(command.get_program());
            timeout
        }
    };
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    let status = copy.status().map_err(|source| command::start(&copy, source))?;
    Ok(shell_status(status))
}

/// An exit status as a shell gives it: 128 and the signal's number for a signal.
pub(crate) fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
    code.and_then(|c| u8::try_from(c).ok()).unwrap_or(u8::MAX)
}
