//! This host's own processor.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{ARCHITECTURE, counter_frequency, identity, missing_features};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{ARCHITECTURE, identity, missing_features, processor_word};
