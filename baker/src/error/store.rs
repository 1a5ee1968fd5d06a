//! The store, or a snapshot in it, cannot be used.

use std::path::PathBuf;

use supermachine_snapshots::pack::PackError;

use crate::oci;

/// The store, or a snapshot in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A snapshot could not be read from the store, or written to it.
    #[error("snapshot cannot be read or stored")]
    Pack {
        /// Why.
        source: PackError,
    },
    /// The cache could not be searched.
    #[error("cache of mapped forms cannot be used")]
    Cache {
        /// Why.
        source: supermachine::Error,
    },
    /// A named snapshot cannot be read, so its blobs are unknown.
    #[error("snapshot {name} cannot be read; import or pull it again, or remove its name")]
    Unreadable {
        /// The name.
        name: String,
        /// Why.
        source: Box<PackError>,
    },
    /// Another process is writing to the store.
    #[error("{store} is in use by a bake, import, pull or push")]
    Busy {
        /// The store.
        store: PathBuf,
    },
    /// There is no snapshot of this name.
    #[error("no snapshot named {name:?} in {store}")]
    NoSuchName {
        /// The name.
        name: String,
        /// The store.
        store: PathBuf,
    },
    /// A snapshot could not be pushed to a registry.
    #[error("snapshot cannot be pushed")]
    Push {
        /// Why.
        source: oci::Error,
    },
    /// A snapshot could not be pulled from a registry.
    #[error("snapshot cannot be pulled")]
    Pull {
        /// Why.
        source: oci::Error,
    },
}
