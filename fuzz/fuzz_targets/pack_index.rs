//! See `test-support/src/fuzz/pack_index.rs`.
#![no_main]

use supermachine_test_support::fuzz::pack_index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pack_index::run(data);
});
