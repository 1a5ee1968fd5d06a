//! A short run of the fuzz targets of this crate.

use supermachine_test_support::fuzz::{layer, oci};
use supermachine_test_support::mutate;

#[test]
fn mutated_layer_does_not_panic() {
    mutate::smoke(&layer::samples(), layer::run);
}

#[test]
fn mutated_oci_documents_do_not_panic() {
    mutate::smoke(&oci::samples(), oci::run);
}
