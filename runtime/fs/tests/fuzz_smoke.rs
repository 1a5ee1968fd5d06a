//! A short run of each fuzz target of this crate.

use supermachine_test_support::fuzz::fs;
use supermachine_test_support::mutate;

#[test]
fn fs() {
    mutate::smoke(&fs::samples(), fs::run);
}
