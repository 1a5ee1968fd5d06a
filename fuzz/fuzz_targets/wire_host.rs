//! See `bodies/wire_host.rs`.
#![no_main]

#[path = "../bodies/wire_host.rs"]
#[allow(dead_code, reason = "the samples are for the seeds")]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
