//! Errors of snapshots in the store.

use std::path::PathBuf;

/// Why `run` has no snapshot to start from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The store has no snapshot of the image, and the pull failed.
    #[error("no snapshot of {wanted} in {}, and it cannot be pulled", store.display())]
    NotPulled { wanted: String, store: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// The store has no snapshot of the image, and `--pull never` was given.
    #[error("no snapshot of {wanted} in {}, and --pull never was given", store.display())]
    NeverPulled { wanted: String, store: PathBuf },
    /// The named snapshot differs from the options, and is not the image's default snapshot.
    #[error(
        "the snapshot {name} has {memory_mib} MiB of memory, {vcpus} vCPUs and its own entrypoint; \
         `supermachine run` with other values needs an image's name, or a snapshot of another \
         --name from `supermachine pull`"
    )]
    Fixed { name: String, memory_mib: u64, vcpus: u16 },
    /// Another image has the name that the pulled image would get.
    #[error(
        "the name {name} belongs to a snapshot of another image, {image}; \
         choose a name with `supermachine pull --name NAME {wanted}`"
    )]
    NameTaken { name: String, image: String, wanted: String },
}
