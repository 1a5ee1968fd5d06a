//! See `test-support/src/fuzz/net.rs`.
#![no_main]

use supermachine_test_support::fuzz::net;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    net::run(data);
});
