//! Why an operation on an image or a machine failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::Failure;

use supermachine_snapshots::pack::PackError;
use supermachine_vmm::{GuestFailure, MachineError};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The snapshot is missing, damaged, or of another version.
    #[error("snapshot cannot be used")]
    Pack {
        /// What is wrong with it.
        source: PackError,
    },
    /// Something can only be written to a store, and the snapshot does not lie in one.
    #[error("{path} is not a store but a single file; import it into a store first")]
    NotAStore {
        /// Where the snapshot lies.
        path: PathBuf,
    },
    /// A snapshot's name has a form that is not allowed.
    #[error(
        "{name:?} is not a snapshot name: up to 128 letters, digits, '.', '_' and '-', the first a letter or digit"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// No folder of what ships with the program has this snapshot.
    #[error(
        "no snapshot {name} in {}; SUPERMACHINE_SNAPSHOTS names another folder",
        listed(folders)
    )]
    AssetMissing {
        /// The snapshot's name.
        name: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A snapshot that should be part of the program was left out when it was built.
    #[error(
        "snapshot {name} was left out when this program was built, as SUPERMACHINE_NO_BAKE or DOCS_RS was set; build it without"
    )]
    Placeholder {
        /// The snapshot's name.
        name: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// There is no folder for what can be made again.
    #[error("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path")]
    NoCacheDir,
    /// The snapshot has another size of machine than the caller requires.
    #[error("snapshot has {found} {what}, {wanted} required; bake it with that size")]
    Mismatch {
        /// What differs, with its unit.
        what: &'static str,
        /// What the caller requires.
        wanted: u64,
        /// What the snapshot has.
        found: u64,
    },
    /// No machine of a pool became free in time.
    #[error(
        "no machine of the pool became free within {waited:?}: {in_use} of at most {max} are in use"
    )]
    PoolExhausted {
        /// How many are in use.
        in_use: usize,
        /// The most that the pool may have.
        max: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// A pool of a size that cannot be.
    #[error("no pool can keep {min} machines warm and have at most {max}")]
    PoolSize {
        /// The machines to keep warm.
        min: usize,
        /// The most machines.
        max: usize,
    },
    /// The machine could not be made, run or captured.
    #[error("machine cannot be used")]
    Machine {
        /// Why.
        source: MachineError,
    },
    /// The guest ended by itself.
    #[error("{failure}; its console ends with: {console}")]
    Guest {
        /// How it ended.
        failure: GuestFailure,
        /// The last lines of the guest kernel's messages.
        console: String,
    },
    /// The machine was stopped or dropped, or returned to its pool, while it was in use.
    #[error("the machine was stopped, or given back, while it was in use")]
    Stopped,
    /// The process that serves a machine cannot be reached.
    #[error("the process that serves a machine at {path} cannot be reached")]
    Worker {
        /// Its socket file.
        path: PathBuf,
        /// The operating system's answer; `PermissionDenied` when it is another user's.
        source: io::Error,
    },
    /// The program that holds isolated machines is not there.
    #[error(
        "`supermachine-worker`, the program that holds isolated machines, is in none of {}; \
         `cargo supermachine bundle` puts it beside the app, `VmConfig::with_assets` names a folder",
        listed(folders)
    )]
    NoWorker {
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// The program that holds isolated machines cannot be started.
    #[error("{path}, the program that holds isolated machines, cannot be started")]
    WorkerNotStarted {
        /// The program.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The process that held the machine has ended: it was asked to, or was killed.
    #[error("the process that held the machine has ended, and the machine with it")]
    WorkerGone,
    /// What only the process that holds a machine can do was asked of another one.
    #[error("another process holds the machine, and only that one can do this")]
    HeldElsewhere,
    /// The process that holds a machine is of another version.
    #[error(
        "the process that holds the machine speaks version {found}, this one {supported}; \
         use the program that started it, or end process {pid}"
    )]
    WorkerVersion {
        /// The worker's.
        found: u16,
        /// This build's.
        supported: u16,
        /// The worker's process.
        pid: u32,
    },
    /// The process that holds the machine said something that it may not say.
    #[error("the process that holds the machine broke the protocol")]
    WorkerProtocol {
        /// What it said.
        source: DecodeError,
    },
    /// The process that holds the machine could not do what it was asked.
    #[error("the process that holds the machine answered: {reason}")]
    WorkerFailed {
        /// Its error, with the causes.
        reason: String,
    },
    /// What was asked for was given up on this side before it was done.
    #[error("it was given up before it was done: its handle was dropped")]
    Abandoned,
    /// The agent closed a stream without an answer.
    #[error("the guest's agent closed the stream before it answered")]
    AgentGone,
    /// The agent said something that it may not say.
    #[error("the guest's agent broke the protocol")]
    Protocol {
        /// What it said.
        source: DecodeError,
    },
    /// The agent answered with another message than the request allows.
    #[error("the guest's agent gave an answer that does not belong to {request}")]
    UnexpectedReply {
        /// The request.
        request: &'static str,
    },
    /// The agent speaks another version of the protocol.
    #[error("the guest's agent speaks protocol version {found}, this build {supported}")]
    AgentVersion {
        /// The agent's.
        found: u16,
        /// This build's.
        supported: u16,
    },
    /// The agent could not do what it was asked.
    #[error("in the guest, {failure}")]
    Agent {
        /// What failed, on what, with the guest's error number.
        failure: Failure,
    },
    /// A stream to the guest failed.
    #[error("stream to the guest failed")]
    Stream {
        /// The operating system's answer.
        source: io::Error,
    },
    /// An address or a socket file of the host could not be listened on.
    #[error("cannot listen on {address}{}", listen_remedy(.address, .source))]
    Listen {
        /// The address or the path.
        address: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A port of the guest could not be connected to or listened on.
    #[error("the guest's port {port} cannot be used")]
    GuestPort {
        /// The port.
        port: u16,
        /// The guest's answer, `ConnectionRefused` when nothing listens there.
        source: io::Error,
    },
    /// A forward no longer serves, since its machine has ended.
    #[error("{address} is closed, as its machine has ended")]
    ForwardClosed {
        /// The address, socket file or port of the guest that it served.
        address: String,
    },
    /// What a command wrote could not be passed on.
    #[error("the command's {stream} cannot be passed on")]
    Output {
        /// Which of its streams.
        stream: &'static str,
        /// The writer's answer.
        source: io::Error,
    },
    /// A command wrote more than is kept of it, and was killed.
    #[error(
        "the command wrote more than {limit} bytes to its {stream}; raise max_output, or read it as it comes"
    )]
    OutputTooLarge {
        /// Which of its streams.
        stream: &'static str,
        /// The most that is kept.
        limit: usize,
    },
    /// A number that is no signal.
    #[error("{number} is not a signal: they are 1 to 64")]
    InvalidSignal {
        /// The number.
        number: i32,
    },
    /// A path in the guest that does not begin at its root.
    #[error("{path:?} is not an absolute path of at most 4096 bytes without a zero byte")]
    InvalidPath {
        /// The path.
        path: PathBuf,
    },
    /// A file's mode beyond permissions, set-user-id, set-group-id and sticky.
    #[error("{mode:#o} is not a mode: the highest is 0o7777")]
    InvalidMode {
        /// The mode.
        mode: u32,
    },
    /// What is to be copied could not be read, or written, on this side.
    #[error("what is copied cannot be {operation} on this side")]
    Copy {
        /// What was done.
        operation: &'static str,
        /// The reader's or writer's answer.
        source: io::Error,
    },
    /// The guest did not answer in time.
    #[error("the guest did not answer within {limit:?}")]
    Unanswered {
        /// How long was waited.
        limit: Duration,
    },
    /// The operating system has no random bytes to make a machine unique with.
    #[error("no random bytes from the operating system")]
    NoEntropy {
        /// The operating system's answer.
        source: io::Error,
    },
    /// A command without a program.
    #[error("no program to run: argv is empty")]
    EmptyCommand,
    /// A zero byte where the guest's system ends a text.
    #[error("{what} of the command has a zero byte")]
    ZeroByte {
        /// What has it.
        what: &'static str,
    },
    /// A command that does not fit into one request.
    #[error("command takes {size} bytes with its environment, more than {limit}")]
    CommandTooLarge {
        /// Its size.
        size: usize,
        /// The largest that is sent.
        limit: usize,
    },
}

/// What the user can do when an address cannot be listened on.
fn listen_remedy(address: &str, source: &io::Error) -> &'static str {
    let is_port = address.parse::<std::net::SocketAddr>().is_ok();
    match source.kind() {
        io::ErrorKind::AddrInUse if is_port => "; port 0 picks one that is free",
        io::ErrorKind::PermissionDenied if is_port => "; ports over 1023 need no rights",
        _ => "",
    }
}

impl From<MachineError> for Error {
    fn from(source: MachineError) -> Self {
        Self::Machine { source }
    }
}

/// Folders, one after the other.
fn listed(folders: &[PathBuf]) -> String {
    if folders.is_empty() {
        return "any folder, as the program's own is not known".to_owned();
    }
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl From<PackError> for Error {
    fn from(source: PackError) -> Self {
        Self::Pack { source }
    }
}

impl From<supermachine_snapshots::Error> for Error {
    fn from(error: supermachine_snapshots::Error) -> Self {
        match error {
            supermachine_snapshots::Error::Io { operation, path, source } => {
                Self::Io { operation, path, source }
            }
            supermachine_snapshots::Error::Pack { source } => Self::Pack { source },
        }
    }
}
