//! The bytes of supermachine: snapshots, device state and the agent's wire.
//!
//! This crate owns every layout that reaches a disk or a socket; `SPEC.md` describes them byte
//! by byte. It does no I/O and makes no policy: encoders append to a `Vec<u8>`, decoders read a
//! slice through one bounded [`codec::Reader`] and validate every field. [`relay`] moves bytes between
//! sockets that its callers bring. It needs no standard library, so that the guest's agent uses the
//! same types.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

extern crate alloc;

pub mod codec;
pub mod digest;
pub mod pack;
mod record;
pub mod relay;
pub mod snapshot;
pub mod wire;

pub use digest::{Digest, Hasher};
