//! Turn OCI images into snapshots that supermachine starts in milliseconds.

pub mod oci;
pub mod rootfs;
