//! The `supermachine` and `cargo supermachine` commands.
//!
//! Owns what a person at a terminal sees: arguments, progress, reports, exit statuses. Images
//! are baked by `supermachine-baker` and machines run by `supermachine`; nothing here knows how.
//! Standard output holds only what a command is asked for; all else goes to standard error.

mod bundle;
mod cargo_cli;
mod codesign;
mod commands;
mod copy;
mod detach;
mod error;
mod format;
mod label;
mod machines;
mod package;
mod ports;
mod process;
mod progress;
mod report;
mod store;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueHint};

use commands::{
    codesign as codesign_command, cp, df, doctor, exec, export, gc, import, inspect, logs, ls, ps,
    pull, push, rm, run, stop, supervise, verify,
};
use error::Error;

/// The status of a command whose arguments are wrong.
const USAGE: u8 = 2;

const LONG_ABOUT: &str = "\
Run OCI images as hardware-isolated microVMs that start in milliseconds.

`pull` fetches an image, starts it once in a virtual machine and keeps a snapshot of the moment at \
which it is ready. `run` restores that snapshot, runs a command in it, and ends the machine: \
nothing that the command does is kept. `run -d` leaves it running, for `exec` and the like.";

const EXAMPLES: &str = "\
Examples:
  supermachine doctor                           what this host can do, and what is missing
  supermachine pull redis                       bake docker.io/library/redis as `redis`
  supermachine run redis -- redis-cli ping      run a command in a machine of it
  supermachine run -d -p 6379:6379 redis        leave one running, with a port of it
  supermachine exec -it redis -- sh             a shell in it; `stop` ends it, `ps` lists all
  supermachine ls                               the snapshots that there are
  supermachine inspect redis                    all about one of them
  supermachine export redis redis.tar           write it to one file; `import` takes it back
  supermachine push redis HOST/redis:warm       send it to a registry; `pull` gets it back
  supermachine rm redis                         forget it
  supermachine gc                               remove what no snapshot needs

`supermachine help COMMAND` tells all about a command.";

#[derive(Debug, Parser)]
#[command(name = "supermachine", version, about = "Run OCI images as microVMs", long_about = LONG_ABOUT)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Globals {
    /// The folder of snapshots [default: $XDG_DATA_HOME/supermachine or ~/.local/share/supermachine]
    #[arg(long, global = true, env = "SUPERMACHINE_STORE", value_name = "DIR")]
    #[arg(value_hint = ValueHint::DirPath, hide_env_values = true, display_order = 900)]
    store: Option<PathBuf>,
    /// Tell nothing but results and errors
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Args),
    Run(run::Args),
    Ps(ps::Args),
    Exec(exec::Args),
    Logs(logs::Args),
    Cp(cp::Args),
    Stop(stop::Args),
    Ls(ls::Args),
    Inspect(inspect::Args),
    Rm(rm::Args),
    Export(export::Args),
    Import(import::Args),
    Push(push::Args),
    Verify(verify::Args),
    Gc(gc::Args),
    Df(df::Args),
    Doctor(doctor::Args),
    Codesign(codesign_command::Args),
    #[command(hide = true)]
    Supervise(supervise::Args),
}

impl Command {
    fn exec(&self, globals: &Globals) -> Result<u8, Error> {
        match self {
            Self::Pull(args) => pull::exec(args, globals),
            Self::Run(args) => run::exec(args, globals),
            Self::Ps(args) => ps::exec(args),
            Self::Exec(args) => exec::exec(args),
            Self::Logs(args) => logs::exec(args),
            Self::Cp(args) => cp::exec(args),
            Self::Stop(args) => Ok(stop::exec(args)),
            Self::Ls(args) => ls::exec(args, globals),
            Self::Inspect(args) => inspect::exec(args, globals),
            Self::Rm(args) => rm::exec(args, globals),
            Self::Export(args) => export::exec(args, globals),
            Self::Import(args) => import::exec(args, globals),
            Self::Push(args) => push::exec(args, globals),
            Self::Verify(args) => verify::exec(args, globals),
            Self::Gc(args) => gc::exec(args, globals),
            Self::Df(args) => df::exec(args, globals),
            Self::Doctor(args) => doctor::exec(args, globals),
            Self::Codesign(args) => codesign_command::exec(args, globals),
            Self::Supervise(args) => supervise::exec(args, globals),
        }
    }

    fn status_of(&self, error: &Error) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) => process::status_of(error),
            _ => 1,
        }
    }
}

/// The command `supermachine`.
#[must_use]
pub fn supermachine() -> ExitCode {
    execute(std::env::args_os().collect()).into()
}

/// The command `cargo-supermachine`, which cargo runs as `cargo supermachine`.
#[must_use]
pub fn cargo_supermachine() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    // Cargo passes its subcommand's name on as the first argument.
    if arguments.get(1).is_some_and(|first| first == "supermachine") {
        arguments.remove(1);
    }
    cargo_cli::execute(arguments).into()
}

fn execute(arguments: Vec<OsString>) -> u8 {
    let is_process = subcommand(&arguments).is_some_and(|word| word == "run" || word == "exec");
    match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.execute(),
        Err(error) => refuse(&error, if is_process { process::FAILED } else { USAGE }),
    }
}

impl Cli {
    /// Does what was asked for and returns the exit status.
    fn execute(&self) -> u8 {
        let done = self.command.exec(&self.globals);
        status_of(done, |error| self.command.status_of(error))
    }
}

/// What a command exits with, once it has told what went wrong.
fn status_of(done: Result<u8, Error>, failed: impl FnOnce(&Error) -> u8) -> u8 {
    match done {
        Ok(status) => status,
        Err(error) if error.is_closed_pipe() => error::CLOSED_PIPE,
        Err(error) => {
            report::error(&error);
            failed(&error)
        }
    }
}

/// Tells why arguments are refused, or the help that they ask for.
fn refuse(error: &clap::Error, usage: u8) -> u8 {
    // Whoever does not read the help text needs no word about that.
    let _ = error.print();
    if error.use_stderr() { usage } else { 0 }
}

/// The first argument that is neither an option nor an option's value. Asked for when the
/// arguments cannot be parsed, so it goes by what stands before a command.
fn subcommand(arguments: &[OsString]) -> Option<&OsString> {
    arguments.get(subcommand_place(arguments)?)
}

fn subcommand_place(arguments: &[OsString]) -> Option<usize> {
    let mut words = arguments.iter().enumerate().skip(1);
    loop {
        let (place, word) = words.next()?;
        if word == "--store" {
            words.next()?;
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn subcommand_is_found_behind_options() {
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
