//! Snapshots on disk: packs, and the mapped forms from which machines start.
//!
//! For supermachine's own crates: applications use `supermachine`. A *pack* is a snapshot's
//! portable form, an OCI artifact in a folder or one file. A *mapped form* is a pack expanded
//! once into page-aligned files in the user's cache. This crate is the one reader and writer of
//! folders of blobs. It starts no machine.

// Shared test samples name this crate as its users do.
#[cfg(test)]
extern crate self as supermachine_snapshots;

mod error;
pub mod mapped;
pub mod pack;
// Included rather than imported: test-support links this crate without `cfg(test)`, whose types differ.
#[cfg(test)]
#[allow(unreachable_pub, reason = "a module of another crate too")]
#[path = "../../../test-support/src/packs.rs"]
mod samples;
mod stamp;

pub use error::Error;
