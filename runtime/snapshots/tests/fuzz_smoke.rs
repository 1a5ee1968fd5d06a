//! A short smoke of the fuzz targets of this crate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../fuzz/bodies/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/bodies/pack_manifest.rs"]
mod pack_manifest;
#[path = "../../../fuzz/bodies/pack_open.rs"]
mod pack_open;
#[allow(dead_code, reason = "only the archive is used here")]
#[path = "../../../fuzz/bodies/pack_samples.rs"]
mod pack_samples;

#[test]
fn pack_manifest_stands_mutations() {
    mutate::smoke(&pack_manifest::samples(), pack_manifest::run);
}

#[test]
fn pack_open_stands_mutations() {
    mutate::smoke(&pack_open::samples(), pack_open::run);
}
