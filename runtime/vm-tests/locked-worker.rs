//! A worker that can open no file from its first request on: the kernel refuses every call that
//! opens a path.

use std::process::ExitCode;

/// Reads the number of the system call.
const LOAD_NUMBER: u16 = 0x20;
/// Skips the next instruction unless the number is `k`.
const IF_EQUAL: u16 = 0x15;
/// Ends the filter with the result `k`.
const RETURN: u16 = 0x06;

/// The calls that open a path on every architecture.
const OPEN: [libc::c_long; 2] = [libc::SYS_openat, libc::SYS_openat2];
/// Their predecessors, which later architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_OPEN: [libc::c_long; 2] = [libc::SYS_open, libc::SYS_creat];
#[cfg(not(target_arch = "x86_64"))]
const OLD_OPEN: [libc::c_long; 0] = [];

fn main() -> ExitCode {
    // SAFETY: nothing has run before in this process.
    unsafe { supermachine::worker::main_locked(lock) }
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn lock() {
    let instruction = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter = vec![instruction(LOAD_NUMBER, 0, 0)];
    for call in OPEN.into_iter().chain(OLD_OPEN) {
        let call = u32::try_from(call).unwrap_or(u32::MAX);
        filter.push(instruction(IF_EQUAL, 1, call));
        filter.push(instruction(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES.cast_unsigned()));
    }
    filter.push(instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    let length = u16::try_from(filter.len()).unwrap_or(0);
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the call takes numbers only.
    let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the kernel reads the filter, of which pointer and length describe all.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    if !is_bound || result != 0 || std::fs::File::open("/").is_ok() {
        panic!("the filter is not in place");
    }
}
