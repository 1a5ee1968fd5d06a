//! The agent: PID 1 of a supermachine guest.
//!
//! # What it does
//! The kernel starts it from an initramfs that contains only the agent. It prepares the kernel's
//! file systems (`boot`), connects its control stream to the host and serves requests: attach a
//! container's root file system (`container`), start its entrypoint, run commands (`child`),
//! follow output, reap. After a restore, the first message on the control stream makes the machine
//! different from its clones (`resume`).
//!
//! # Shape
//! One thread, one epoll loop (`server`). No libc: system calls, allocator and entry point are
//! in `sys`, the only module with unsafe code. Everything above it also runs on an ordinary
//! Linux host, where the tests drive the whole server over Unix sockets.
//!
//! # Cost
//! Restore to first output is measured in microseconds, and each guest page that is touched for
//! the first time costs an exit to the host. So descriptors are opened and buffers allocated
//! beforehand, children are created without copying page tables, and a command that exits within its
//! first milliseconds is answered in one write, without an epoll registration.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

mod account;
mod boot;
mod cgroup;
mod child;
mod connections;
mod container;
mod disk;
mod disks;
mod environment;
mod failure;
mod files;
mod in_use;
mod joined;
mod link;
mod log;
mod mounts;
mod network;
mod place;
mod ports;
mod resume;
mod root;

mod server;
mod share;
mod slot;
#[expect(unsafe_code, reason = "the seam to the kernel")]
pub mod sys;
mod tar;
mod usage;
mod volume;
mod writable_layer;

use core::fmt::{Display, Write};

use supermachine_formats::wire::{CONTROL_PORT, Failure, REQUEST_PORT};

use crate::cgroup::Groups;
use crate::failure::OrFailure;
use crate::server::Server;

/// Runs as PID 1, for ever.
pub fn run() -> ! {
    match serve() {
        Ok(()) => fail(&"the control stream ended"),
        Err(failure) => fail(&failure),
    }
}

/// Prints a fatal error on the console and resets the machine, which the host notices.
pub fn fail(reason: &dyn Display) -> ! {
    let mut console = Console;
    let _ = writeln!(console, "supermachine-init: {reason}");
    sys::mount::restart()
}

fn serve() -> Result<(), Failure> {
    boot::prepare()?;
    let groups = Groups::prepare().or_failure("prepare", "cgroup")?;
    // Listening first: once the host hears Hello it may connect.
    let listener = sys::socket::listen(REQUEST_PORT).or_failure("listen", "vsock")?;
    let control = sys::socket::connect_to_host(CONTROL_PORT).or_failure("connect", "vsock")?;
    Server::new(control, listener, groups)?.run()
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        sys::fd::write_to_console(text.as_bytes());
        Ok(())
    }
}
