//! The store: a folder of snapshots, and a cache of results.
//!
//! The folder is an OCI image layout of packs that share blobs; its index has their names. `keys/`
//! maps digests of inputs to results, so that no work is repeated; `locks/` serialises processes that
//! need the same result. A name appears only when everything reachable from it exists. Any number of
//! processes may use the folder at once.

mod archive;
mod handle;
mod import;
mod marks;
mod summary;
mod sweep;
mod transfer;
mod usage;
mod verify;

pub use handle::Store;
pub use import::Imported;
pub use summary::{Footprint, Sizes, Summary};
pub use sweep::{ItemTotal, SweepOptions, Swept};
pub use transfer::Transferred;
pub use usage::Usage;
pub use verify::Verified;
