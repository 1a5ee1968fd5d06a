//! The signal that kicks a vCPU thread out of the guest.
//!
//! Invariant: on a vCPU thread every signal is blocked, and inside `KVM_RUN` only the kick
//! is not. So the kick never reaches a handler: it stays pending, `KVM_RUN` returns, and
//! [`drain`] clears it.

use std::io;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::backend::Kick;

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, kvm_bindings::KVMIO, 0x8b, u32);

/// `struct kvm_signal_mask` with the kernel's 64-bit set behind it.
#[repr(C, packed)]
struct SignalMask {
    length: u32,
    blocked: u64,
}

/// Blocks all signals on the calling thread, and lets the kick through while `vcpu` runs.
pub(super) fn prepare_thread(vcpu: &VcpuFd) -> io::Result<()> {
    // SAFETY: an all-zero `sigset_t` is a valid value for `sigfillset` to fill.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is a valid, writable set.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: `all` is initialised and no old set is asked for.
    let errno = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let kick_bit = 1_u64 << (kick_signal() - 1);
    let mask = SignalMask { length: 8, blocked: !kick_bit };
    // SAFETY: the kernel reads 4 + `length` bytes from `mask`, which is what it has.
    let answer = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Clears a pending kick of the calling thread.
pub(super) fn drain() {
    // SAFETY: an all-zero `sigset_t` is a valid value for `sigemptyset` to empty.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid, writable set.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: `set` is initialised and the signal's number is within the kernel's range.
    unsafe { libc::sigaddset(&mut set, kick_signal()) };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `set` and `now` are initialised; no information is asked for.
    while unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) } > 0 {}
}

/// Kicks one thread, which must be alive or not yet joined.
#[derive(Debug)]
pub(super) struct ThreadKick {
    thread: libc::pid_t,
}

impl ThreadKick {
    pub(super) fn current() -> Self {
        // SAFETY: `gettid` has no preconditions.
        Self { thread: unsafe { libc::gettid() } }
    }
}

impl Kick for ThreadKick {
    fn kick(&self) {
        // SAFETY: `getpid` has no preconditions.
        let process = unsafe { libc::getpid() };
        // SAFETY: the call takes no pointers; a thread that has ended gives ESRCH, which is
        // harmless.
        unsafe { libc::syscall(libc::SYS_tgkill, process, self.thread, kick_signal()) };
    }
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}
