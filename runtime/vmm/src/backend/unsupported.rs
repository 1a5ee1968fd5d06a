//! The backend of platforms without a hypervisor: every call returns `Unsupported`.

use std::sync::Arc;

use supermachine_formats::snapshot::HypervisorFamily;

use super::error::HypervisorError;
use super::hypervisor::Vm;
use super::speed::Speed;
use crate::os::DeviceFile;

/// Whether a process can have one machine only.
pub const ONE_MACHINE_PER_PROCESS: bool = false;

pub(crate) fn family() -> Result<HypervisorFamily, HypervisorError> {
    Err(HypervisorError::Unsupported)
}

pub(crate) fn create_vm() -> Result<Arc<dyn Vm>, HypervisorError> {
    Err(HypervisorError::Unsupported)
}

pub(crate) fn probe() -> Result<Speed, HypervisorError> {
    Err(HypervisorError::Unsupported)
}

pub(crate) fn device() -> Option<&'static DeviceFile> {
    None
}
