//! See `test-support/src/fuzz/fs.rs`.
#![no_main]

use supermachine_test_support::fuzz::fs;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fs::run(data);
});
