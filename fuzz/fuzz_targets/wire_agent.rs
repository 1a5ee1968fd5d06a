//! See `test-support/src/fuzz/wire_agent.rs`.
#![no_main]

use supermachine_test_support::fuzz::wire_agent;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire_agent::run(data);
});
