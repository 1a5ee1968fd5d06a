//! What a program without a C runtime must bring: the entry point, the memory functions that
//! the compiler calls, the allocator and the panic handler.
//!
//! Part of the binary, not of the library: a test program has its own of each.

use core::panic::PanicInfo;

use supermachine_init::sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new();

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "bl {main}",
    "brk #1",
    main = sym main,
);

extern "C" fn main() -> ! {
    supermachine_init::run()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    supermachine_init::fail(info)
}

/// Unwinding is off; the precompiled core library still names its personality.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`]: named, never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    supermachine_init::fail(&"unwinding")
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller promises `count` readable bytes at `from`, writable ones at `to`.
    unsafe { supermachine_init::sys::memory::copy_forward(to, from, count) };
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: as for `memcpy`; the target does not begin inside the source.
        unsafe { supermachine_init::sys::memory::copy_forward(to, from, count) };
    } else {
        // SAFETY: as for `memcpy`; backwards, because the target begins inside the source.
        unsafe { supermachine_init::sys::memory::copy_backward(to, from, count) };
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller promises `count` writable bytes at `to`.
    unsafe { supermachine_init::sys::memory::fill(to, value.to_le_bytes()[0], count) };
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller promises `count` readable bytes at both.
    unsafe { supermachine_init::sys::memory::compare(left, right, count) }
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller promises `count` readable bytes at both.
    unsafe { supermachine_init::sys::memory::compare(left, right, count) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    // SAFETY: the caller promises a terminated string.
    unsafe { supermachine_init::sys::memory::length(text) }
}
