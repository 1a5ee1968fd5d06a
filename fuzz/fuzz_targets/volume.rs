//! See `test-support/src/fuzz/volume.rs`.
#![no_main]

use supermachine_test_support::fuzz::volume;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    volume::run(data);
});
