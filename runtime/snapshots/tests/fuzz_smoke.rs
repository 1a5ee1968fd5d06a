//! A short run of the fuzz targets of this crate and of those below it.

use supermachine_test_support::fuzz::{pack_manifest, pack_open, volume};
use supermachine_test_support::mutate;

#[test]
fn pack_manifest_survives_mutations() {
    mutate::smoke(&pack_manifest::samples(), pack_manifest::run);
}

#[test]
fn pack_open_survives_mutations() {
    mutate::smoke(&pack_open::samples(), pack_open::run);
}

#[test]
fn volume_survives_mutations() {
    mutate::smoke(&volume::samples(), volume::run);
}
