//! See `bodies/pack_index.rs`.
#![no_main]

#[path = "../bodies/pack_index.rs"]
#[allow(dead_code, reason = "the samples are for the seeds")]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
