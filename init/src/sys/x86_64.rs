//! The system call instruction and the child's first steps, x86_64.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::ffi::c_void;

use linux_raw_sys::general::{__NR_clone3, clone_args};

/// The name of a slot's device: the kernel counts those of its command line.
pub(crate) fn slot_device(slot: u8) -> String {
    format!("virtio-mmio.{slot}")
}

/// # Safety
/// As the kernel documents for the call `number`.
pub(super) unsafe fn syscall(number: u32, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller's promise; the kernel changes only rax, rcx, r11 and named memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
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
    // SAFETY: the parent leaves with all registers but rax, rcx and r11 as they were; the
    // child has its own stack and never passes the call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") __NR_clone3 as isize => result,
            in("rdi") core::ptr::from_ref(how), in("rsi") size_of::<clone_args>(),
            in("r12") argument, in("r13") child,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}
