//! Why a bake failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use supermachine_formats::snapshot::arch::{Baseline, Features};
use supermachine_formats::wire::Failure;
use supermachine_snapshots::pack::PackError;
use supermachine_vmm::HypervisorError;

use crate::boot::BootError;
use crate::ready::Ready;
use crate::{oci, rootfs};

/// Why an image could not be baked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BakeError {
    /// The image could not be fetched.
    #[error("image cannot be fetched")]
    Fetch {
        /// Why.
        source: oci::Error,
    },
    /// The image's layers could not be made into a root file system.
    #[error("root file system cannot be made in {folder}")]
    Rootfs {
        /// Where it is put together.
        folder: PathBuf,
        /// Why.
        source: Box<rootfs::Error>,
    },
    /// Guest kernel or agent are missing.
    #[error("guest kernel or agent cannot be used")]
    Assets {
        /// Why.
        source: supermachine_kernel::Error,
    },
    /// The boot snapshot could not be laid out.
    #[error("boot snapshot cannot be laid out")]
    Boot {
        /// Why.
        source: BootError,
    },
    /// This host lacks what the guest is to use.
    #[error("this host's processor lacks {missing} of {baseline}; ask for {}", lower(*baseline))]
    Baseline {
        /// What was asked for.
        baseline: Baseline,
        /// What is not there.
        missing: Features,
    },
    /// The guest's kernel does not come up.
    #[error("the guest's kernel is not up after {} s; its last messages:\n{console}", limit.as_secs())]
    NotUp {
        /// How long it was given.
        limit: std::time::Duration,
        /// What it has written to its console.
        console: String,
    },
    /// A machine could not be started, asked or captured.
    #[error("machine failed during the {step}")]
    Machine {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: supermachine::Error,
    },
    /// A snapshot could not be read from the store, or written to it.
    #[error("snapshot cannot be read or stored")]
    Pack {
        /// Why.
        source: PackError,
    },
    /// The cache could not be looked through.
    #[error("cache of mapped forms cannot be used")]
    Cache {
        /// Why.
        source: supermachine::Error,
    },
    /// A snapshot could not be pushed to a registry or pulled from one.
    #[error("snapshot cannot be {done}")]
    Transfer {
        /// Pushed or pulled.
        done: &'static str,
        /// Why.
        source: oci::Error,
    },
    /// A snapshot is wanted, and something else is there.
    #[error("{place} is not a snapshot but {found}; an image becomes a snapshot when it is baked")]
    NotASnapshot {
        /// The file, folder or reference.
        place: String,
        /// What is there.
        found: String,
    },
    /// A snapshot has no name where it comes from, and none was given.
    #[error("the snapshot in {path} has no name there; give it one")]
    Nameless {
        /// The file or folder that it comes from.
        path: PathBuf,
    },
    /// A name leads to a snapshot that cannot be read, so that it is not known what belongs
    /// to it.
    #[error("snapshot {name} cannot be read; import or pull it again, or remove its name")]
    Unreadable {
        /// The name.
        name: String,
        /// Why.
        source: PackError,
    },
    /// Somebody makes something in the store.
    #[error("{store} is in use by a bake, import, pull or push")]
    Busy {
        /// The store.
        store: PathBuf,
    },
    /// The image has no command and none was given.
    #[error("image {reference} has neither entrypoint nor command; give one")]
    NoCommand {
        /// The image.
        reference: String,
    },
    /// The image is for a platform that guests cannot be.
    #[error("image is for {found}, guests here are {host}")]
    Platform {
        /// The image's platform.
        found: String,
        /// What guests are.
        host: String,
    },
    /// The entrypoint could not be started.
    #[error("entrypoint cannot be started: in the guest, {failure}")]
    EntrypointMissing {
        /// What failed, on what, with the guest's error number.
        failure: Failure,
    },
    /// The entrypoint ended before the machine was ready.
    #[error("entrypoint ended with {status} before it was ready ({ready}); {last_words}")]
    EntrypointEnded {
        /// Its exit code or signal.
        status: String,
        /// What was waited for.
        ready: Ready,
        /// The end of what it wrote, and of the guest's console.
        last_words: LastWords,
    },
    /// The machine was not ready in time.
    #[error("not ready ({ready}) within {limit:?}; {last_words}")]
    NotReady {
        /// What was waited for.
        ready: Ready,
        /// How long.
        limit: Duration,
        /// The end of what the entrypoint wrote, and of the guest's console.
        last_words: LastWords,
    },
    /// Text that says when a machine is ready has no known form.
    #[error("{text:?} is none of tcp:PORT, log:REGEX, exec:COMMAND, exit, auto")]
    InvalidReady {
        /// The text.
        text: String,
    },
    /// A readiness pattern is not a regular expression.
    #[error("readiness pattern cannot be read")]
    InvalidPattern {
        /// Why.
        source: regex::Error,
    },
    /// The warm-up did not succeed.
    #[error("warm-up failed")]
    Warmup {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be added to an image under this path.
    #[error("{path:?} is no place for a file in an image: an absolute path, without \"..\"")]
    InvalidGuestPath {
        /// The path.
        path: String,
    },
    /// A snapshot is not in the cache of builds, and this host cannot bake it.
    #[error(
        "this host cannot bake: {problem}; bake where KVM works, or set SUPERMACHINE_NO_BAKE=1 to build without snapshots"
    )]
    NoHypervisor {
        /// What it lacks.
        problem: &'static str,
        /// The hypervisor's answer.
        source: Option<HypervisorError>,
    },
    /// A snapshot's name has a form that is not allowed.
    #[error(
        "{name:?} is not a snapshot name: up to 128 letters, digits, '.', '_' and '-', the first a letter or digit"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// There is no snapshot of this name.
    #[error("no snapshot named {name:?} in {store}")]
    NoSuchName {
        /// The name.
        name: String,
        /// The store that was asked.
        store: PathBuf,
    },
    /// Cargo has not said what it says to build scripts.
    #[error("{variable} is not set: this is to be called by a build script, which cargo runs")]
    NotABuildScript {
        /// What is not set.
        variable: &'static str,
    },
    /// Snapshots are for the architecture and system that they are baked on.
    #[error(
        "snapshots for {target} cannot be baked on {host}; bake them there and set SUPERMACHINE_PREBAKED to the folder of their packs"
    )]
    CrossBuild {
        /// What is built for.
        target: String,
        /// What this is.
        host: String,
    },
    /// A build script bakes two snapshots of one name.
    #[error("two snapshots are to be called {name:?}; give one another name")]
    BakedTwice {
        /// The name.
        name: String,
    },
    /// The lock file pins nothing for an image, and must not change.
    #[error(
        "{path} does not pin {reference}, and SUPERMACHINE_LOCKED is set; build without it once"
    )]
    NotLocked {
        /// The lock file.
        path: PathBuf,
        /// The image.
        reference: String,
    },
    /// A pack that was baked elsewhere is another machine than is wanted.
    #[error(
        "{path} has {} MiB of memory and {} vCPUs, and {} MiB and {} are wanted",
        found.0, found.1, wanted.0, wanted.1
    )]
    OtherMachine {
        /// The pack.
        path: PathBuf,
        /// Memory in MiB and vCPUs that are wanted.
        wanted: (u64, u16),
        /// Those that it has.
        found: (u64, u16),
    },
    /// What a package declares cannot be used.
    #[error("metadata of the package cannot be used")]
    Manifest {
        /// Why.
        source: crate::manifest::ManifestError,
    },
    /// The lock file cannot be used.
    #[error("lock file cannot be used")]
    Lock {
        /// Why.
        source: crate::lock::LockError,
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
    /// A thread could not be started.
    #[error("thread cannot be started")]
    Thread {
        /// The operating system's answer.
        source: io::Error,
    },
}

/// What to ask for where a baseline's features are not.
fn lower(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::V3 => "x86-64-v2 or host (--cpu)",
        Baseline::V2 | Baseline::Host => "host (--cpu)",
    }
}

/// What a machine said last, for the errors of those that never became ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// The end of what the entrypoint wrote, both streams together.
    pub output: String,
    /// The end of the guest kernel's messages.
    pub console: String,
}

impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let or_nothing = |text: &str| match text.trim() {
            "" => "nothing".to_owned(),
            text => format!("\n{text}\n"),
        };
        let (output, console) = (or_nothing(&self.output), or_nothing(&self.console));
        write!(f, "its output ends with {output}; the guest's console ends with {console}")
    }
}

impl BakeError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    pub(crate) fn machine(step: &'static str) -> impl FnOnce(supermachine::Error) -> Self {
        move |source| Self::Machine { step, source }
    }
}

impl From<oci::Error> for BakeError {
    fn from(source: oci::Error) -> Self {
        Self::Fetch { source }
    }
}

impl From<PackError> for BakeError {
    fn from(source: PackError) -> Self {
        Self::Pack { source }
    }
}

impl From<crate::manifest::ManifestError> for BakeError {
    fn from(source: crate::manifest::ManifestError) -> Self {
        Self::Manifest { source }
    }
}

impl From<crate::lock::LockError> for BakeError {
    fn from(source: crate::lock::LockError) -> Self {
        Self::Lock { source }
    }
}
