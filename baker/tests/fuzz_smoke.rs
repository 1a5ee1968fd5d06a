//! A short smoke of the fuzz targets of this crate.

#[path = "../../fuzz/bodies/layer.rs"]
mod layer;
#[path = "../../fuzz/bodies/mutate.rs"]
mod mutate;
#[path = "../../fuzz/bodies/oci.rs"]
mod oci;

#[test]
fn layer_stands_mutations() {
    mutate::smoke(&layer::samples(), layer::run);
}

#[test]
fn oci_stands_mutations() {
    mutate::smoke(&oci::samples(), oci::run);
}
