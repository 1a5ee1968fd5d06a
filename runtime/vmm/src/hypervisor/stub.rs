//! The backend of platforms that have none yet: it compiles, and says so when it is used.

use std::sync::Arc;

use supermachine_formats::snapshot::HypervisorFamily;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;

use super::{HypervisorError, Vm};
use crate::host::Speed;

pub(crate) fn family() -> HypervisorFamily {
    HypervisorFamily::Any
}

pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    Err(HypervisorError::Unsupported)
}

pub(crate) fn probe() -> Result<Speed, HypervisorError> {
    Err(HypervisorError::Unsupported)
}

/// Whoever could tell would be of another architecture: nothing is missing.
pub(crate) fn processor_word(_: u32, _: u32, _: Register) -> u32 {
    u32::MAX
}
