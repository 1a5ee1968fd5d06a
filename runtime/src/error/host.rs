//! Errors on this side: arguments, snapshots, the host, and the worker.

use std::io;
use std::path::PathBuf;

use supermachine_formats::codec::DecodeError;
use supermachine_snapshots::pack::{PackError, refused_name};
use supermachine_vmm::file_failure;

/// An argument that can never be valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInput {
    /// A snapshot's name.
    #[error("{}", refused_name(name, "snapshot"))]
    SnapshotName {
        /// The name.
        name: String,
    },
    /// The snapshot has another size of machine than the configuration requires.
    #[error("snapshot has {found} {what}, {wanted} required; bake it with that size")]
    Mismatch {
        /// What differs, with its unit.
        what: &'static str,
        /// The required size.
        wanted: u64,
        /// The snapshot's.
        found: u64,
    },
    /// A pool cannot keep more machines warm than it may have, and must be allowed one.
    #[error("no pool can keep {min} machines warm and have at most {max}")]
    PoolSize {
        /// The machines to keep warm.
        min: usize,
        /// The most machines.
        max: usize,
    },
    /// A signal's number.
    #[error("{number} is not a signal: they are 1 to 64")]
    Signal {
        /// The number.
        number: i32,
    },
    /// A path in the guest.
    #[error("{path:?} is not an absolute path of at most 4096 bytes without a zero byte")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// A file's mode, with bits beyond permissions, set-user-id, set-group-id and sticky.
    #[error("{mode:#o} is not a mode: the highest is 0o7777")]
    Mode {
        /// The mode.
        mode: u32,
    },
    /// A limit of a process's resource.
    #[error("{text:?} is not a ulimit: {reason}")]
    Ulimit {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two folders of the host or volumes at one place of the guest.
    #[cfg(feature = "fs")]
    #[error("two folders or volumes are to be at {target:?} in the machine: one path has one")]
    SharedTwice {
        /// The path in the guest.
        target: String,
    },
    /// A pool with a volume that machines write to: only one machine may have it.
    #[cfg(feature = "fs")]
    #[error(
        "the machines of a pool cannot share volume {name}: make it read-only, give them disks of their own, \
         or start machines without a pool"
    )]
    VolumeOfPool {
        /// The volume's name or path.
        name: String,
    },
    /// A command without a program.
    #[error("no program to run: argv is empty")]
    EmptyCommand,
    /// A zero byte, which terminates texts in the guest.
    #[error("{what} of the command has a zero byte")]
    ZeroByte {
        /// The part of the command.
        what: &'static str,
    },
    /// A command that exceeds one request.
    #[error("command takes {size} bytes with its environment, more than {limit}")]
    CommandTooLarge {
        /// Its size, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Why a snapshot cannot be found or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Its pack is missing, damaged, or of another version.
    #[error("snapshot cannot be used")]
    Pack {
        /// What is wrong with it.
        source: PackError,
    },
    /// None of the folders that ship with the program has it.
    #[error(
        "no snapshot {name} in {}; SUPERMACHINE_SNAPSHOTS names another folder",
        listed(folders)
    )]
    NotFound {
        /// The snapshot's name.
        name: String,
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// It was left out when the program was built.
    #[error(
        "snapshot {name} was left out when this program was built, as SUPERMACHINE_NO_BAKE or DOCS_RS was set; build it without"
    )]
    Placeholder {
        /// The snapshot's name.
        name: String,
    },
    /// The machine writes to a disk, whose content is not part of a snapshot.
    #[error("machine that has a disk at / cannot be captured or forked")]
    LayerOnDisk,
    /// It is a single file, and a new snapshot can only be written to a store.
    #[error("{path} is not a store but a single file; import it into a store first")]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
}

/// A resource that this host denied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file operation failed.
    #[error("{}", file_failure(operation, path, source))]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// There is no cache folder.
    #[error("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path")]
    NoCacheDir,
    /// A stream to the guest failed.
    #[error("stream to the guest failed")]
    Stream {
        /// The operating system's error.
        source: io::Error,
    },
    /// The memory of a fork cannot be kept.
    #[error("no memory for a fork")]
    ForkMemory {
        /// The operating system's error.
        source: io::Error,
    },
    /// A folder cannot be shared with the guest.
    #[cfg(feature = "fs")]
    #[error("cannot share a folder with the machine")]
    Folder {
        /// Which one, and why.
        source: supermachine_fs::FolderError,
    },
    /// A volume cannot be given to the guest.
    #[cfg(feature = "fs")]
    #[error("cannot give a volume to the machine")]
    Volume {
        /// Which one, and why.
        source: crate::VolumeError,
    },
    /// The host has no sockets or threads left to serve a folder.
    #[error("cannot serve a folder to the machine")]
    Share {
        /// The system's error.
        source: io::Error,
    },
    /// The host's side of a machine's network cannot be started.
    #[error("cannot start the network of the machine")]
    Network {
        /// The operating system's error.
        source: io::Error,
    },
    /// The operating system has no random bytes to make a machine unique with.
    #[error("no random bytes from the operating system")]
    NoEntropy {
        /// The operating system's error.
        source: io::Error,
    },
}

/// Why the process that holds a machine cannot be started or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It cannot be reached.
    #[error("the process that serves a machine at {path} cannot be reached")]
    Unreachable {
        /// Its socket file.
        path: PathBuf,
        /// The operating system's error; `PermissionDenied` when it is another user's.
        source: io::Error,
    },
    /// Its program is in no folder.
    #[error(
        "`supermachine-worker`, the program that holds isolated machines, is in none of {}; \
         `cargo supermachine bundle` puts it beside the app, `VmConfig::with_assets` names a folder",
        listed(folders)
    )]
    NoProgram {
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// Its program cannot be started.
    #[error("{path}, the program that holds isolated machines, cannot be started")]
    NotStarted {
        /// The program.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// It has exited, and the machine with it: it was stopped or killed.
    #[error("the process that held the machine has exited, and the machine with it")]
    Gone,
    /// Only the process that holds the machine can do this.
    #[error("another process holds the machine, and only that one can do this")]
    HeldElsewhere,
    /// It speaks another version of the protocol.
    #[error(
        "the process that holds the machine speaks version {found}, this one {supported}; \
         use the program that started it, or stop process {pid}"
    )]
    Version {
        /// The worker's.
        found: u16,
        /// This build's.
        supported: u16,
        /// The worker's process.
        pid: u32,
    },
    /// It sent bytes that are no message.
    #[error("the process that holds the machine broke the protocol")]
    Protocol {
        /// What is wrong with them.
        source: DecodeError,
    },
    /// The capture of its machine that it sent is damaged. It has stored nothing.
    #[error("the process that holds the machine sent a damaged capture")]
    Capture {
        /// What is wrong with it.
        source: io::Error,
    },
    /// The capture that it sent is of another machine than it was asked for.
    #[error("the process that holds the machine sent a capture of another machine")]
    OtherMachine,
    /// It could not do what it was asked.
    #[error("the process that holds the machine answered: {reason}")]
    Failed {
        /// Its error, with the causes.
        reason: String,
    },
}

/// Folders, one after the other.
fn listed(folders: &[PathBuf]) -> String {
    if folders.is_empty() {
        return "any folder, as the program's own is not known".to_owned();
    }
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}
