//! See `test-support/src/fuzz/pack_manifest.rs`.
#![no_main]

use supermachine_test_support::fuzz::pack_manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pack_manifest::run(data);
});
