//! Why a command failed, grouped by what the user can do about it.

mod background;
mod cargo;
mod guest;
mod host;
mod package;
mod snapshot;
mod usage;

use std::io;
use std::path::{Path, PathBuf};

use supermachine_baker::BakeError;
use supermachine_vmm::file_failure;

pub(crate) use self::background::BackgroundError;
pub(crate) use self::cargo::CargoError;
pub(crate) use self::guest::GuestCommandError;
pub(crate) use self::host::HostError;
pub(crate) use self::package::PackageError;
pub(crate) use self::snapshot::SnapshotError;
pub(crate) use self::usage::UsageError;
use crate::codesign::CodesignError;

/// The exit status after the reader of our output has gone: 128 and SIGPIPE.
pub(crate) const CLOSED_PIPE: u8 = 141;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The arguments are wrong. Change the command line.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The host lacks something. Repair the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A snapshot is missing, or its name is taken. Pull it, or choose another name.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A machine in the background cannot be started or reached. Look at `supermachine ps`.
    #[error(transparent)]
    Background(#[from] BackgroundError),
    /// The guest cannot run the command. Change the command or the image.
    #[error(transparent)]
    GuestCommand(#[from] GuestCommandError),
    /// A cargo package cannot be baked or bundled. Change its manifest.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Cargo failed.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// A program was not signed.
    #[error(transparent)]
    Codesign(#[from] CodesignError),
    /// An image cannot be baked, or the store refused an operation.
    #[error(transparent)]
    Bake(#[from] BakeError),
    /// A snapshot or a machine cannot be used.
    #[error(transparent)]
    Machine(#[from] supermachine::Error),
    /// A volume cannot be made, read or removed.
    #[error(transparent)]
    Volume(#[from] supermachine::VolumeError),
    /// A file or folder of the host cannot be used.
    #[error("{}", file_failure(operation, path, source))]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// The result cannot be written.
    #[error("cannot write to standard output")]
    Output { source: io::Error },
}

impl Error {
    /// Returns a function for `map_err` that adds what was done to which file.
    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }

    /// Whether a machine in the background was starting or stopping when it was asked.
    pub(crate) fn is_transient(&self) -> bool {
        use supermachine::Error::{Stopped, Worker};
        use supermachine::error::WorkerError::Gone;
        let is_gone = matches!(
            self,
            Self::Background(BackgroundError::NotRunning { .. })
                | Self::Machine(Stopped | Worker { source: Gone })
        );
        is_gone || self.is_not_listening()
    }

    /// Whether nobody listened on the machine's socket.
    pub(crate) fn is_not_listening(&self) -> bool {
        let Self::Machine(supermachine::Error::Worker {
            source: supermachine::error::WorkerError::Unreachable { source, .. },
        }) = self
        else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }

    /// Whether the reader of our output has gone, which is not worth a message.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        let (Self::Output { source }
        | Self::Machine(supermachine::Error::Transfer {
            source: supermachine::error::TransferError::Output { source, .. },
        })) = self
        else {
            return false;
        };
        source.kind() == io::ErrorKind::BrokenPipe
    }
}
