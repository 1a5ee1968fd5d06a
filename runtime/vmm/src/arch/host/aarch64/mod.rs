//! What an arm64 processor and its kernel let programs know.
//!
//! Linux answers for the identification registers. macOS does not, and has names for features.

/// Reads a system register that the kernel lets programs read.
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: the kernel answers for this register, and the read has no effect.
        unsafe {
            std::arch::asm!(
                concat!("mrs {}, ", $register),
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }
        value
    }};
}

#[cfg(not(target_os = "macos"))]
mod registers;
#[cfg(target_os = "macos")]
mod sysctl;

use supermachine_formats::snapshot::Architecture;

#[cfg(not(target_os = "macos"))]
pub(crate) use registers::{identity, missing_features};
#[cfg(target_os = "macos")]
pub(crate) use sysctl::{identity, missing_features};

/// The architecture.
pub(crate) const ARCHITECTURE: Architecture = Architecture::Aarch64;

/// The frequency of the counter in Hz.
pub(crate) fn counter_frequency() -> u32 {
    read!("cntfrq_el0") as u32
}

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::Baseline;

    use super::*;

    #[test]
    fn processor_identifies_itself_and_counts() {
        assert_ne!(identity()[0], 0);
        assert_ne!(counter_frequency(), 0);
        assert_eq!(missing_features(Baseline::Host).to_string(), "");
    }
}
