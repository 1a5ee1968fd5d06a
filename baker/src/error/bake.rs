//! Why a bake failed.

use std::io;
use std::path::PathBuf;

use supermachine_snapshots::pack::PackError;
use supermachine_vmm::file_failure;

use super::host::HostError;
use super::input::InputError;
use super::lock::LockError;
use super::manifest::ManifestError;
use super::project::ProjectError;
use super::store::StoreError;
use super::workload::WorkloadError;
use crate::boot::BootError;
use crate::{oci, rootfs};

/// Why an image could not be baked, grouped by the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BakeError {
    /// The request is invalid; change it.
    #[error(transparent)]
    Input(#[from] InputError),
    /// This host cannot bake the image; use another host, or install what this one lacks.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The image's program did not become ready; see its output.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The store, or a snapshot in it, cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The package's declarations or its build script are invalid; change its files.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The image could not be fetched.
    #[error("image cannot be fetched")]
    Fetch {
        /// Why.
        source: oci::Error,
    },
    /// The image's layers could not be made into a root file system.
    #[error("root file system cannot be made in {folder}")]
    Rootfs {
        /// The scratch folder.
        folder: PathBuf,
        /// Why.
        source: Box<rootfs::Error>,
    },
    /// The boot snapshot could not be laid out.
    #[error("boot snapshot cannot be laid out")]
    Boot {
        /// Why.
        source: BootError,
    },
    /// The guest's kernel did not come up in time.
    #[error("the guest's kernel is not up after {} s; its last messages:\n{console}", limit.as_secs())]
    NotUp {
        /// The time allowed.
        limit: std::time::Duration,
        /// The end of its console output.
        console: String,
    },
    /// A machine could not be started, queried or captured.
    #[error("machine failed during the {step}")]
    Machine {
        /// The step of the bake.
        step: &'static str,
        /// Why.
        source: supermachine::Error,
    },
    /// A file operation failed.
    #[error("{}", file_failure(operation, path, source))]
    Io {
        /// The operation, a verb.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
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
        StoreError::Pack { source }.into()
    }
}

impl From<ManifestError> for BakeError {
    fn from(source: ManifestError) -> Self {
        ProjectError::Manifest { source }.into()
    }
}

impl From<LockError> for BakeError {
    fn from(source: LockError) -> Self {
        ProjectError::Lock { source }.into()
    }
}
