//! The system call instruction and the child's first steps, aarch64.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::ffi::c_void;

use linux_raw_sys::general::{__NR_clone3, clone_args};
use supermachine_formats::snapshot::arch::aarch64::{SLOT_SIZE, SLOTS_START};

/// The name of a slot's device: the kernel names those of a device tree by address and node.
pub(crate) fn slot_device(slot: u8) -> String {
    format!("{:x}.virtio", SLOTS_START + u64::from(slot) * SLOT_SIZE)
}

/// # Safety
/// As the kernel documents for the call `number`.
pub(super) unsafe fn syscall(number: u32, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes only x0 and named memory.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

/// `clone3`, whose child runs `child(argument)` on its own stack and never returns.
///
/// # Safety
/// The stack that `how` names is writable, aligned to 16, and lives until the child has left this
/// address space; `argument` is what `child` expects.
pub(super) unsafe fn clone(
    how: &clone_args,
    child: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: the parent leaves with all registers but x0 as they were; the child has its own
    // stack and never passes the call.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, #0",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") __NR_clone3 as usize,
            inlateout("x0") core::ptr::from_ref(how) => result,
            in("x1") size_of::<clone_args>(),
            in("x20") argument, in("x21") child,
            lateout("x30") _,
        );
    }
    result
}
