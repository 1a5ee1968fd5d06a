//! See `test-support/src/fuzz/layer.rs`.
#![no_main]

use supermachine_test_support::fuzz::layer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    layer::run(data);
});
