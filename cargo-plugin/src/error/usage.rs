//! Errors of the command line that clap cannot see.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use supermachine_snapshots::pack::refused_name;

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// `run` without a command.
    #[error(
        "no command to run, as the image has neither ENTRYPOINT nor CMD: give one after the name, \
         as in `supermachine run {name} -- COMMAND ARGUMENT…`"
    )]
    NoCommand { name: String },
    /// A text that becomes part of a snapshot is not UTF-8.
    #[error("the {what} {text:?} is not UTF-8, as everything that a snapshot keeps must be")]
    NotUtf8 { what: &'static str, text: OsString },
    /// The name cannot be a machine's.
    #[error("{}", refused_name(name, "machine"))]
    MachineName { name: String },
    /// An option for a machine in the background, of a run that ends with its command.
    #[error(
        "{option} is for a machine in the background, and this one goes with its command: add --detach, \
         or leave out {option}"
    )]
    NeedsDetach { option: &'static str },
    /// A machine is to get the name that it has.
    #[error("the machine already has the name {name}; choose another name")]
    SameName { name: String },
    /// `--restart` and `--rm` contradict each other.
    #[error(
        "--rm discards what --restart {policy} starts again: leave out one of the two, as in Docker"
    )]
    RestartAndRemove { policy: String },
    /// A line of an environment file has no name, or white space in it.
    #[error("{}: line {line} is not NAME=VALUE, with a name without white space", path.display())]
    EnvFile { path: PathBuf, line: usize },
    /// Neither side of a copy is in a machine, or both are.
    #[error("either the source or the target must be in a machine, as MACHINE:PATH")]
    CopyPaths,
    /// `--chown` for a copy out of a machine, or of an archive.
    #[error("--chown gives an owner to files and folders that are copied into a machine")]
    Chown,
    /// The machine does not know the owner.
    #[error(
        "the machine has no {kind} {name:?}: use a name of its /etc/passwd and /etc/group, or a number"
    )]
    UnknownOwner { kind: &'static str, name: String },
    /// The target of a copy is not a folder.
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    /// The source of a copy, such as `/`, has no name.
    #[error("{} has no name for the copy", path.display())]
    NoFileName { path: PathBuf },
    /// `volume prune` without `--force`.
    #[error(
        "prune would remove these volumes with all that is on them: {}; add --force to do it",
        names.join(", ")
    )]
    PruneVolumes { names: Vec<String> },
    /// `-it` without a terminal.
    #[error("standard input is not a terminal: leave out -t")]
    NotATerminal,
    /// An archive would go to a terminal.
    #[error("standard output is a terminal: name a file, or pipe the archive into a program")]
    ArchiveToTerminal,
    /// Standard input has no password.
    #[error("no password on standard input")]
    Password { source: io::Error },
}
