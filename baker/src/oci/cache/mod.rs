//! The cache: blobs by digest, and digests by tag.

mod blobs;
mod tags;

pub use blobs::{BlobStore, BlobWriter};
pub(crate) use tags::{recall, remember};
