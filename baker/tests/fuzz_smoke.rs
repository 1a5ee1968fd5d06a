//! A short run of the fuzz targets of this crate.

use supermachine_test_support::fuzz::{layer, oci};
use supermachine_test_support::mutate;

#[test]
fn layer_stands_mutations() {
    mutate::smoke(&layer::samples(), layer::run);
}

#[test]
fn oci_stands_mutations() {
    mutate::smoke(&oci::samples(), oci::run);
}
