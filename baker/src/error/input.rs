//! Requests that are invalid.

use std::path::PathBuf;

use supermachine_snapshots::pack::refused_name;

/// The request is invalid; change it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The image has no command, and the caller gave none.
    #[error(
        "image {reference} has neither entrypoint nor command; give one, as with --entrypoint PROGRAM"
    )]
    NoCommand {
        /// The image.
        reference: String,
    },
    /// The text is not a readiness condition.
    #[error("{text:?} is not one of tcp:PORT, log:REGEX, exec:COMMAND, exit, auto")]
    InvalidReady {
        /// The text.
        text: String,
    },
    /// The text is not an action after restores.
    #[error("{text:?} is not one of restart, signal:SIGNAL, exec:COMMAND, none")]
    InvalidAfterRestore {
        /// The text.
        text: String,
    },
    /// The text is not a file system in memory.
    #[error("{text:?} is not PATH[:OPTIONS] of a file system in memory: {reason}")]
    InvalidTmpfs {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is not a limit of a process's resource.
    #[error(transparent)]
    InvalidUlimit {
        /// What is wrong with it.
        source: supermachine::error::InvalidInput,
    },
    /// A readiness pattern is not a regular expression.
    #[error("readiness pattern is not a regular expression")]
    InvalidPattern {
        /// Why.
        source: regex::Error,
    },
    /// The path is not one for a file in an image.
    #[error("{path:?} is not a path for a file in an image: use an absolute path without \"..\"")]
    InvalidGuestPath {
        /// The path.
        path: String,
    },
    /// The name is not a snapshot name.
    #[error("{}", refused_name(name, "snapshot"))]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A build script bakes two snapshots with one name.
    #[error("two snapshots are named {name:?}; rename one")]
    BakedTwice {
        /// The name.
        name: String,
    },
    /// A prebaked pack has another machine size than the build asks for.
    #[error(
        "{path} has {} MiB of memory and {} vCPUs, but the build asks for {} MiB and {}",
        found.0, found.1, wanted.0, wanted.1
    )]
    OtherMachine {
        /// The pack.
        path: PathBuf,
        /// Memory in MiB and vCPUs that the build asks for.
        wanted: (u64, u16),
        /// Those of the pack.
        found: (u64, u16),
    },
    /// The snapshot or image has no name at its source, and the caller gave none.
    #[error("what is in {path} has no name; give the snapshot one, as with --name NAME")]
    Nameless {
        /// Its source, a file or folder.
        path: PathBuf,
    },
    /// The source holds something other than a snapshot.
    #[error("{place} is not a snapshot but {found}; an image becomes a snapshot when it is baked")]
    NotASnapshot {
        /// The file, folder or reference.
        place: String,
        /// What it holds.
        found: String,
    },
}
