//! Why a command failed.

use std::io;
use std::path::PathBuf;

use supermachine_baker::BakeError;
use supermachine_formats::wire::Operation;
use supermachine_vmm::HypervisorError;

use crate::codesign::CodesignError;
use crate::package::CargoError;

/// The status of a command whose output nobody reads any more: 128 and SIGPIPE.
pub(crate) const CLOSED_PIPE: u8 = 141;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An image could not be baked, or the store refused something.
    #[error(transparent)]
    Bake(#[from] BakeError),
    /// A snapshot or a machine could not be used.
    #[error(transparent)]
    Machine(#[from] supermachine::Error),
    /// A program was not signed.
    #[error(transparent)]
    Codesign(#[from] CodesignError),
    /// Cargo could not be used.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Place { operation: &'static str, path: PathBuf, source: io::Error },
    /// Not exactly one program was built.
    #[error(
        "one program is bundled, and these were built: {}; name it with --bin or --example",
        if found.is_empty() { "none" } else { found }
    )]
    NoProgram { found: String },
    /// The program that holds isolated machines was not built; cargo has told why.
    #[error(
        "supermachine-worker, the program that holds isolated machines, was not built; \
         `worker = false` in [package.metadata.supermachine.bundle] leaves it out"
    )]
    WorkerNotBuilt,
    /// A snapshot is wanted, and the environment asks for none.
    #[error("the snapshot {name:?} is left out, as SUPERMACHINE_NO_BAKE or DOCS_RS asks; unset it")]
    LeftOut { name: String },
    /// A snapshot that is to be bundled was not made.
    #[error(
        "the bundle shall have the snapshot {name:?}, but no build script made it and Cargo.toml \
         does not declare it"
    )]
    NoSnapshot { name: String },
    /// The table that describes a bundle has another form.
    #[error("{}: [package.metadata.supermachine.bundle] cannot be used", path.display())]
    BundleTable { path: PathBuf, source: Box<toml::de::Error> },
    /// A bundle's name cannot be a file's.
    #[error("{name:?} cannot be a bundle's name")]
    BundleName { name: String },
    /// What is at the bundle's place was not made as one.
    #[error(
        "{} is no bundle of this program, and is left as it is; --output or the bundle's `name` \
         says another place",
        path.display()
    )]
    NoBundle { path: PathBuf },
    /// Two things of a bundle would have one place.
    #[error("the bundle has something of the name of {} already", path.display())]
    PutTwice { path: PathBuf },
    /// Two packages made snapshots of one name, and they differ.
    #[error(
        "two packages made a snapshot {name:?}: {} and {}; rename one of them",
        one.display(),
        other.display()
    )]
    SnapshotTwice { name: String, one: PathBuf, other: PathBuf },
    /// A property list cannot be read or written.
    #[error("the property list {} cannot be used", path.display())]
    PropertyList { path: PathBuf, source: plist::Error },
    /// An image that is not pinned.
    #[error("{image} is neither pinned in supermachine.lock nor declared in Cargo.toml")]
    NotPinned { image: String },
    /// A snapshot that was to be run is not there and could not be made.
    #[error("no snapshot of {wanted} in {}, and it cannot be pulled", store.display())]
    NotPulled { wanted: String, store: PathBuf, source: Box<Error> },
    /// The name that a pulled image would get has another snapshot already.
    #[error(
        "the name {name} has a snapshot of another image, {image}; \
         give a name with `supermachine pull --name NAME {wanted}`"
    )]
    NameTaken { name: String, image: String, wanted: String },
    /// Machines cannot run here.
    #[error("this host cannot run machines; `supermachine doctor` tells how to mend it")]
    Host { source: HypervisorError },
    /// Machines would run here, but hardly.
    #[error(
        "the hypervisor of this host interprets guest code, some {factor} times slower than \
         hardware; `supermachine doctor` tells more"
    )]
    Slow { factor: u64 },
    /// Guest kernel or agent are missing.
    #[error("guest kernel or agent cannot be used")]
    Assets { source: supermachine_kernel::Error },
    /// Neither `--store` nor a home folder is known.
    #[error("no folder for snapshots: give --store, or set SUPERMACHINE_STORE or HOME")]
    NoStore,
    /// A command was not given.
    #[error(
        "no command to run: give one after the name, as in \
         `supermachine run {name} -- COMMAND ARGUMENT…`; \
         -d leaves the machine running without one"
    )]
    NoCommand { name: String },
    /// A machine in the background was given a command.
    #[error(
        "a machine in the background runs its image's entrypoint: start it with \
         `supermachine run -d {name}`, and run commands in it with `supermachine exec`"
    )]
    DetachedCommand { name: String },
    /// No machine of this name runs in the background.
    #[error("no machine {name:?} runs; `supermachine ps` lists those that do")]
    NoSuchMachine { name: String },
    /// The wanted name is that of another machine.
    #[error("a machine {name} runs already; stop it, or give another --name")]
    MachineTaken { name: String },
    /// What cannot be a machine's name.
    #[error(
        "{name:?} cannot be a machine's name: it has letters, digits, '.', '_' and '-', \
         and begins with a letter or a digit"
    )]
    MachineName { name: String },
    /// A supervisor that nobody made a claim for.
    #[error("the name {name} is not claimed for this process; use `supermachine run -d`")]
    NotClaimed { name: String },
    /// The folder of machines might have been tampered with.
    #[error(
        "{} is not a folder of yours alone (mode 0700); remove it, or set XDG_RUNTIME_DIR",
        path.display()
    )]
    NotOwnFolder { path: PathBuf },
    /// A file or folder of the host could not be used.
    #[error("{operation} of {} failed", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// The process that would hold a machine could not be started.
    #[error("no process for the machine can be started")]
    Supervisor { source: io::Error },
    /// The process that would hold a machine could not start it.
    #[error("{reason}")]
    NotDetached { reason: String },
    /// A supervisor tells what this program does not know.
    #[error("process {pid}, which holds it, is of another version of this program")]
    OtherLabel { pid: u32 },
    /// The guest was gone before the machine was to end.
    #[error("the machine {name} had failed before it was stopped")]
    HadFailed { name: String, source: supermachine::Error },
    /// A copy within the host, or within or between machines.
    #[error("either the source or the target is in a machine, as MACHINE:PATH")]
    CopyPlaces,
    /// Something would be put into what is no folder.
    #[error("{} is not a folder", path.display())]
    NoFolder { path: PathBuf },
    /// A root, or the like, which a copy cannot be called by.
    #[error("{} has no name of its own that the copy could get", path.display())]
    NoFileName { path: PathBuf },
    /// -it without a terminal.
    #[error("standard input is not a terminal: leave out -t")]
    NotATerminal,
    /// The terminal could not be used.
    #[error("the terminal cannot be used")]
    Terminal { source: io::Error },
    /// There is no room for another thread.
    #[error("no thread can be started")]
    Thread { source: io::Error },
    /// The program is not in the machine.
    #[error("{program}: no such program in the machine")]
    NoSuchProgram { program: String },
    /// The program is there but cannot be executed.
    #[error("{program}: cannot be executed in the machine")]
    NotExecutable { program: String, source: io::Error },
    /// The machine could not prepare the command.
    #[error("{operation} of {subject:?} failed in the machine")]
    NotPrepared { operation: Operation, subject: String, source: io::Error },
    /// The password could not be read.
    #[error("no password on standard input")]
    Password { source: io::Error },
    /// An archive would go to a terminal.
    #[error("standard output is a terminal; name a file, or pass the archive on")]
    ArchiveToTerminal,
    /// The result could not be written.
    #[error("standard output cannot be written")]
    Output { source: io::Error },
}

impl Error {
    /// Whether a machine that runs by itself was about to begin or to end when it was asked.
    pub(crate) fn is_passing(&self) -> bool {
        use supermachine::Error::{Stopped, WorkerGone};
        let is_gone =
            matches!(self, Self::NoSuchMachine { .. } | Self::Machine(Stopped | WorkerGone));
        is_gone || self.is_unserved()
    }

    /// Whether a machine was not served yet when it was to be reached, or no more.
    pub(crate) fn is_unserved(&self) -> bool {
        let Self::Machine(supermachine::Error::Worker { source, .. }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }

    /// Whether nobody reads the output any more, which is no failure to tell of.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        let (Self::Output { source } | Self::Machine(supermachine::Error::Output { source, .. })) =
            self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}
