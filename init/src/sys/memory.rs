//! Copying, filling and comparing bytes, in instructions rather than loops.
//!
//! A loop here would be turned back by the compiler into a call of the very function it
//! implements; so the bodies are assembly, or read and write volatile.

#[cfg(target_arch = "x86_64")]
mod arch {
    use core::arch::asm;

    pub(super) unsafe fn forward(to: *mut u8, from: *const u8, count: usize) {
        // SAFETY: the caller's promise about both ranges; the direction flag is clear by ABI.
        unsafe {
            asm!(
                "rep movsq",
                "mov ecx, {rest:e}",
                "rep movsb",
                rest = in(reg) count & 7,
                inout("rcx") count / 8 => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) unsafe fn backward(to: *mut u8, from: *const u8, count: usize) {
        // SAFETY: the caller's promise about both ranges; the direction flag is put back.
        unsafe {
            asm!(
                "std",
                "rep movsb",
                "cld",
                inout("rcx") count => _,
                inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
                options(nostack),
            );
        }
    }

    pub(super) unsafe fn fill(to: *mut u8, value: u8, count: usize) {
        // SAFETY: the caller's promise about the range.
        unsafe {
            asm!(
                "rep stosq",
                "mov ecx, {rest:e}",
                "rep stosb",
                rest = in(reg) count & 7,
                inout("rcx") count / 8 => _,
                inout("rdi") to => _,
                in("rax") u64::from_ne_bytes([value; 8]),
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub(super) unsafe fn forward(to: *mut u8, from: *const u8, count: usize) {
        for at in 0..count {
            // SAFETY: the caller promises `count` readable bytes.
            let byte = unsafe { from.wrapping_add(at).read_volatile() };
            // SAFETY: the caller promises `count` writable bytes.
            unsafe { to.wrapping_add(at).write_volatile(byte) };
        }
    }

    pub(super) unsafe fn backward(to: *mut u8, from: *const u8, count: usize) {
        for at in (0..count).rev() {
            // SAFETY: the caller promises `count` readable bytes.
            let byte = unsafe { from.wrapping_add(at).read_volatile() };
            // SAFETY: the caller promises `count` writable bytes.
            unsafe { to.wrapping_add(at).write_volatile(byte) };
        }
    }

    pub(super) unsafe fn fill(to: *mut u8, value: u8, count: usize) {
        for at in 0..count {
            // SAFETY: the caller promises `count` writable bytes.
            unsafe { to.wrapping_add(at).write_volatile(value) };
        }
    }
}

/// Copies from the first byte to the last.
///
/// # Safety
/// `count` readable bytes at `from`, writable ones at `to`, and `to` not inside the source.
pub unsafe fn copy_forward(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the same promise.
    unsafe { arch::forward(to, from, count) }
}

/// Copies from the last byte to the first.
///
/// # Safety
/// `count` readable bytes at `from`, writable ones at `to`.
pub unsafe fn copy_backward(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the same promise.
    unsafe { arch::backward(to, from, count) }
}

/// Sets every byte to `value`.
///
/// # Safety
/// `count` writable bytes at `to`.
pub unsafe fn fill(to: *mut u8, value: u8, count: usize) {
    // SAFETY: the same promise.
    unsafe { arch::fill(to, value, count) }
}

/// The difference of the first two bytes that differ, or 0.
///
/// # Safety
/// `count` readable bytes at both.
#[must_use]
pub unsafe fn compare(left: *const u8, right: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: `at` is below `count`.
        let one = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: `at` is below `count`.
        let other = unsafe { right.wrapping_add(at).read_volatile() };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// The bytes before the terminating zero.
///
/// # Safety
/// `text` is terminated.
#[must_use]
pub unsafe fn length(text: *const u8) -> usize {
    let mut count = 0_usize;
    // SAFETY: no byte after the terminator is read.
    while unsafe { text.wrapping_add(count).read_volatile() } != 0 {
        count += 1;
    }
    count
}
