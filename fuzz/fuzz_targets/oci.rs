//! See `test-support/src/fuzz/oci.rs`.
#![no_main]

use supermachine_test_support::fuzz::oci;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    oci::run(data);
});
