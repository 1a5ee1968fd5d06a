//! The command line of `supermachine`.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    attend, codesign, cp, df, doctor, events, exec, export, gc, import, inspect, kill, logs, ls,
    pause, port, ps, pull, push, rename, restart, rm, run, stats, stop, supervise, top, verify,
    volume, wait,
};
use crate::error::{self, Error};
use crate::globals::Globals;
use crate::{docker_options, first_word, process, report};

/// The exit status for wrong arguments.
pub(crate) const USAGE: u8 = 2;

const LONG_ABOUT: &str = "\
Run OCI images as hardware-isolated microVMs that start in milliseconds.

`pull` fetches an image, starts it once in a virtual machine, and keeps a snapshot of the moment \
when it is ready. `run` restores the snapshot, runs a command in it, and discards the machine. \
`run -d` leaves the machine running for `exec`, `logs` and `cp`.";

const EXAMPLES: &str = "\
Examples:
  supermachine doctor                           check whether this host can run machines
  supermachine pull redis                       bake docker.io/library/redis as `redis`
  supermachine run redis -- redis-cli ping      run a command in a fresh machine
  supermachine run -d -p 6379:6379 redis        leave a machine running, with a published port
  supermachine exec -it redis -- sh             open a shell in it; `stop` ends it
  supermachine ls                               list snapshots; `ps` lists machines
  supermachine inspect redis                    show the details of a snapshot
  supermachine export redis redis.tar           write it to one file; `import` reads it
  supermachine push redis HOST/redis:warm       send it to a registry; `pull` fetches it
  supermachine rm redis                         remove its name
  supermachine gc                               delete what no snapshot needs

`supermachine help COMMAND` explains a command.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "supermachine", version, about = "Run OCI images as microVMs", long_about = LONG_ABOUT)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(Box<pull::Args>),
    Run(Box<run::Args>),
    Ps(ps::Args),
    Exec(exec::Args),
    Logs(logs::Args),
    Cp(cp::Args),
    Stop(stop::Args),
    Kill(kill::Args),
    Restart(restart::Args),
    Rename(rename::Args),
    Pause(pause::PauseArgs),
    Unpause(pause::UnpauseArgs),
    Wait(wait::Args),
    Port(port::Args),
    Stats(stats::Args),
    Top(top::Args),
    Events(events::Args),
    Ls(ls::Args),
    Inspect(inspect::Args),
    Rm(rm::Args),
    Export(export::Args),
    Import(import::Args),
    Push(push::Args),
    Verify(verify::Args),
    Gc(gc::Args),
    Df(df::Args),
    Volume(volume::Args),
    Doctor(doctor::Args),
    Codesign(codesign::Args),
    #[command(hide = true)]
    Supervise(supervise::Args),
    #[command(hide = true)]
    Attend(attend::Args),
}

impl Command {
    fn exec(&self, globals: &Globals) -> Result<u8, Error> {
        match self {
            Self::Pull(args) => pull::exec(args, globals),
            Self::Run(args) => run::exec(args, globals),
            Self::Ps(args) => ps::exec(args, globals),
            Self::Exec(args) => exec::exec(args),
            Self::Logs(args) => logs::exec(args),
            Self::Cp(args) => cp::exec(args),
            Self::Stop(args) => Ok(stop::exec(args)),
            Self::Kill(args) => Ok(kill::exec(args)),
            Self::Restart(args) => Ok(restart::exec(args)),
            Self::Rename(args) => rename::exec(args),
            Self::Pause(args) => Ok(pause::pause(args)),
            Self::Unpause(args) => Ok(pause::unpause(args)),
            Self::Wait(args) => wait::exec(args),
            Self::Port(args) => port::exec(args),
            Self::Stats(args) => stats::exec(args),
            Self::Top(args) => top::exec(args),
            Self::Events(args) => events::exec(args),
            Self::Ls(args) => ls::exec(args, globals),
            Self::Inspect(args) => inspect::exec(args, globals),
            Self::Rm(args) => rm::exec(args, globals),
            Self::Export(args) => export::exec(args, globals),
            Self::Import(args) => import::exec(args, globals),
            Self::Push(args) => push::exec(args, globals),
            Self::Verify(args) => verify::exec(args, globals),
            Self::Gc(args) => gc::exec(args, globals),
            Self::Df(args) => df::exec(args, globals),
            Self::Volume(args) => volume::exec(args, globals),
            Self::Doctor(args) => doctor::exec(args, globals),
            Self::Codesign(args) => codesign::exec(args, globals),
            Self::Supervise(args) => supervise::exec(args, globals),
            Self::Attend(args) => attend::exec(args),
        }
    }

    fn status_of(&self, error: &Error) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Attend(_) => process::status_of(error),
            _ => 1,
        }
    }
}

impl Cli {
    /// Runs the command and returns the exit status.
    pub(crate) fn execute(&self) -> u8 {
        let done = self.command.exec(&self.globals);
        status_of(done, |error| self.command.status_of(error))
    }
}

/// Parses the arguments, runs the command, and returns the exit status.
pub(crate) fn execute(arguments: Vec<OsString>) -> u8 {
    let arguments = first_word::separate(arguments, Cli::command);
    let is_process = subcommand(&arguments).is_some_and(|word| word == "run" || word == "exec");
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.execute(),
        Err(error) => refuse(&error, &arguments, if is_process { process::FAILED } else { USAGE }),
    }
}

/// Reports an error, if there is one, and returns the exit status.
pub(crate) fn status_of(done: Result<u8, Error>, failed: impl FnOnce(&Error) -> u8) -> u8 {
    match done {
        Ok(status) => status,
        Err(error) if error.is_closed_pipe() => error::CLOSED_PIPE,
        Err(error) => {
            report::error(&error);
            failed(&error)
        }
    }
}

/// Prints why the arguments are wrong, or the help text, and returns the exit status.
pub(crate) fn refuse(error: &clap::Error, arguments: &[OsString], usage: u8) -> u8 {
    match cure(error, arguments) {
        Some(text) => report::problem(&text),
        None => {
            // A reader that closed the help text early needs no message.
            let _ = error.print();
        }
    }
    if error.use_stderr() { usage } else { 0 }
}

/// A better message than clap's, if there is one.
fn cure(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
                return None;
            };
            let is_run = subcommand(arguments).is_some_and(|word| word == "run" || word == "exec");
            let reason = docker_options::reason(option).filter(|_| is_run)?;
            Some(format!("{option} is not supported: {reason}"))
        }
        // Docker's option of this name has no value.
        ErrorKind::InvalidValue => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) if option.starts_with("--init ") => {
                Some(docker_options::INIT.to_owned())
            }
            _ => None,
        },
        ErrorKind::InvalidSubcommand => {
            let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand)
            else {
                return None;
            };
            let instead = docker_options::instead_of(command)?;
            Some(format!("there is no command {command:?}: {instead}"))
        }
        ErrorKind::InvalidUtf8 => {
            let wrong = arguments.iter().find(|argument| argument.to_str().is_none())?;
            Some(format!("the argument {wrong:?} is not UTF-8, as it must be here"))
        }
        _ => None,
    }
}

/// The first argument that is neither an option nor an option's value. Used when the arguments
/// do not parse, so it only knows the options before a command.
fn subcommand(arguments: &[OsString]) -> Option<&OsString> {
    arguments.get(first_word::subcommand_position(arguments)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn subcommand_behind_options_is_found() {
        let find = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            subcommand(&words).map(|word| word.to_string_lossy().into_owned())
        };
        assert_eq!(find(&["x", "run", "a"]).as_deref(), Some("run"));
        assert_eq!(find(&["x", "-q", "--store", "run", "ls"]).as_deref(), Some("ls"));
        assert_eq!(find(&["x", "--store=run", "ls"]).as_deref(), Some("ls"));
        assert_eq!(find(&["x", "-q"]), None);
    }
}
