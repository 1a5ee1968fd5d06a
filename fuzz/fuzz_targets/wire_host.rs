//! See `test-support/src/fuzz/wire_host.rs`.
#![no_main]

use supermachine_test_support::fuzz::wire_host;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire_host::run(data);
});
