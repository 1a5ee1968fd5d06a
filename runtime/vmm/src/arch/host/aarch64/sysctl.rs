//! What the kernel of macOS says about the processor.

use std::ffi::{CStr, c_void};
use std::ptr;

use supermachine_formats::snapshot::arch::{Baseline, Features};

use crate::arch::aarch64::feature_names::{NAMED, missing, value};

/// The words that tell this processor's model from others: its family and its features.
pub(crate) fn identity() -> Vec<u32> {
    let core = [c"hw.cpufamily", c"hw.cpusubfamily"].map(|name| number(name).unwrap_or(0));
    let registers = NAMED.map(|register| value(register, has));
    let words = registers.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]);
    core.into_iter().chain(words).collect()
}

/// The features of a baseline that this processor lacks, as far as macOS has names for them.
pub(crate) fn missing_features(baseline: Baseline) -> Features {
    missing(baseline, has)
}

fn has(name: &CStr) -> bool {
    number(name).is_some_and(|value| value != 0)
}

/// A number of the kernel; `None` if it does not know the name.
fn number(name: &CStr) -> Option<u32> {
    let mut value = 0_u32;
    let mut size = size_of_val(&value);
    let at = (&raw mut value).cast::<c_void>();
    // SAFETY: the kernel reads the name, which ends with a zero byte, and writes at most `size` bytes
    // to the value, which has as many. Nothing is to be set.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), at, &raw mut size, ptr::null_mut(), 0) };
    (result == 0 && size == size_of_val(&value)).then_some(value)
}
