//! The agent's program: entry point, allocator and panic handler around [`supermachine_init`].
//!
//! Build it by itself (`-p supermachine-init`): together with other members of the workspace,
//! Cargo unites the features of shared crates, and theirs bring the standard library in, whose
//! panic handler collides with this one.
#![no_std]
#![no_main]

#[path = "sys/start.rs"]
mod start;
