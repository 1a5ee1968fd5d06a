//! The agent's program: entry point, allocator and panic handler around [`supermachine_init`].
#![no_std]
#![no_main]

#[path = "sys/start.rs"]
mod start;
