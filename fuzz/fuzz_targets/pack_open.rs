//! See `test-support/src/fuzz/pack_open.rs`.
#![no_main]

use supermachine_test_support::fuzz::pack_open;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pack_open::run(data);
});
