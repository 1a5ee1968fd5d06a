//! See `test-support/src/fuzz/snapshot_state.rs`.
#![no_main]

use supermachine_test_support::fuzz::snapshot_state;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    snapshot_state::run(data);
});
