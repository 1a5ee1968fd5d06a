//! Which model-specific registers make up a vCPU's state.
//!
//! The order is that of restoring: the time-stamp counter before its deadline, and the local
//! interrupt controller (not an MSR here) before both.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use supermachine_formats::snapshot::x86_64::Msr;

use super::{HypervisorError, call};

const SAVED: [u32; 26] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SYSCALL_MASK
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
    0x277,       // PAT
    0x1a0,       // MISC_ENABLE
    0x2ff,       // MTRR_DEF_TYPE
    0xda0,       // XSS
    0x48,        // SPEC_CTRL
    0x140,       // MISC_FEATURES_ENABLES
    0x4b56_4d00, // KVM_WALL_CLOCK
    0x4b56_4d01, // KVM_SYSTEM_TIME
    0x4b56_4d03, // KVM_STEAL_TIME
    0x4b56_4d04, // KVM_PV_EOI
    0x4b56_4d05, // KVM_POLL_CONTROL
    0x4b56_4d02, // KVM_ASYNC_PF
    0x4b56_4d06, // KVM_ASYNC_PF_INT
    0x3b,        // TSC_ADJUST
    0x10,        // TSC
    0x1d9,       // DEBUGCTL
    0x6e0,       // TSC_DEADLINE
];

/// Reads those of the saved registers that this vCPU has.
pub(super) fn read(fd: &VcpuFd) -> Result<Vec<Msr>, HypervisorError> {
    let mut wanted: Vec<u32> = SAVED.to_vec();
    loop {
        let mut msrs = entries(wanted.iter().map(|index| (*index, 0)))?;
        let count = fd.get_msrs(&mut msrs).map_err(call("KVM_GET_MSRS"))?;
        if count == wanted.len() {
            let read = msrs.as_slice().iter();
            return Ok(read.map(|msr| Msr { index: msr.index, value: msr.data }).collect());
        }
        // The kernel stops at the first register that it does not have.
        wanted.remove(count);
    }
}

pub(super) fn write(fd: &VcpuFd, msrs: &[Msr]) -> Result<(), HypervisorError> {
    if msrs.is_empty() {
        return Ok(());
    }
    let entries = entries(msrs.iter().map(|msr| (msr.index, msr.value)))?;
    let count = fd.set_msrs(&entries).map_err(call("KVM_SET_MSRS"))?;
    match msrs.get(count) {
        Some(refused) => Err(HypervisorError::Msr { index: refused.index }),
        None => Ok(()),
    }
}

fn entries(msrs: impl Iterator<Item = (u32, u64)>) -> Result<Msrs, HypervisorError> {
    let entries: Vec<kvm_msr_entry> =
        msrs.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries)
        .map_err(|_| HypervisorError::Capability { capability: "room for the MSRs of a snapshot" })
}
