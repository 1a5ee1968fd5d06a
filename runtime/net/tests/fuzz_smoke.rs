//! A short run of each fuzz target of this crate.

use supermachine_test_support::fuzz::net;
use supermachine_test_support::mutate;

#[test]
fn net() {
    mutate::smoke(&net::samples(), net::run);
}
