//! See `bodies/pack_open.rs`.
#![no_main]

#[path = "../bodies/pack_open.rs"]
#[allow(dead_code, reason = "the samples are for the seeds")]
mod body;
#[path = "../bodies/pack_samples.rs"]
#[allow(dead_code, reason = "the samples are for the seeds")]
mod pack_samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
