//! Errors of commands that the guest cannot start.

use std::io;

use supermachine_formats::wire::Operation;

/// Why the guest cannot run a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestCommandError {
    /// The program is missing.
    #[error("{program}: no such program in the machine")]
    NotFound { program: String },
    /// The program cannot be executed.
    #[error("{program}: cannot be executed in the machine")]
    NotExecutable { program: String, source: io::Error },
    /// The working directory cannot be used.
    #[error("cannot use the working directory {path} in the machine")]
    WorkingDirectory { path: String, source: io::Error },
    /// The user is missing.
    #[error("no user {user:?} in the machine's /etc/passwd; use a name from there, or a number")]
    NoUser { user: String },
    /// The group is missing.
    #[error("no group of {user:?} in the machine's /etc/group; use a name from there, or a number")]
    NoGroup { user: String },
    /// A system call before the program's start failed.
    #[error("{operation} of {subject:?} failed in the machine")]
    Setup { operation: Operation, subject: String, source: io::Error },
}
