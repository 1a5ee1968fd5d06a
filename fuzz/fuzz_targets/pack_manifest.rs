//! See `bodies/pack_manifest.rs`.
#![no_main]

#[path = "../bodies/pack_manifest.rs"]
#[allow(dead_code, reason = "the samples are for the seeds")]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
