//! The model-specific registers in a vCPU's state.
//!
//! They are in the order of a restore: the time-stamp counter before its deadline, and the local
//! interrupt controller (not an MSR here) before both.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::x86_64::{CpuidLeaf, Msr};

use crate::arch::x86_64::model::KVM_CPUID_FEATURES;
use crate::backend::HypervisorError;
use crate::backend::kvm::system::call;

const TIME_STAMP_COUNTER: u32 = 0x10;

/// A saved register, and the guests that have it.
type Saved = (u32, Requires);

/// The condition on a guest's CPUID for it to have a register. Registers that it lacks are not saved:
/// another host's kernel may not have them.
#[derive(Debug, Clone, Copy)]
enum Requires {
    /// Every guest has it.
    Always,
    /// One of these bits is set.
    OneOf(&'static [(u32, u32, Register, u32)]),
    /// KVM's paravirtual features include one of these.
    Paravirtual(u32),
    /// The vendor is Intel.
    Intel,
}

/// A register of the paravirtual feature with this bit.
const fn kvm(bit: u32) -> Requires {
    Requires::Paravirtual(1 << bit)
}

const SAVED: [Saved; 26] = [
    (0x174, Requires::Always),       // SYSENTER_CS
    (0x175, Requires::Always),       // SYSENTER_ESP
    (0x176, Requires::Always),       // SYSENTER_EIP
    (0xc000_0081, Requires::Always), // STAR
    (0xc000_0082, Requires::Always), // LSTAR
    (0xc000_0083, Requires::Always), // CSTAR
    (0xc000_0084, Requires::Always), // SYSCALL_MASK
    (0xc000_0102, Requires::Always), // KERNEL_GS_BASE
    (
        0xc000_0103, // TSC_AUX
        Requires::OneOf(&[
            (0x8000_0001, 0, Register::Edx, 1 << 27),
            (7, 0, Register::Ecx, 1 << 22),
        ]),
    ),
    (0x277, Requires::Always),                                    // PAT
    (0x1a0, Requires::Always),                                    // MISC_ENABLE
    (0x2ff, Requires::Always),                                    // MTRR_DEF_TYPE
    (0xda0, Requires::OneOf(&[(0xd, 1, Register::Eax, 1 << 3)])), // XSS
    (
        0x48, // SPEC_CTRL
        Requires::OneOf(&[
            (7, 0, Register::Edx, (1 << 26) | (1 << 27) | (1 << 31)),
            (0x8000_0008, 0, Register::Ebx, (1 << 14) | (1 << 15) | (1 << 24)),
        ]),
    ),
    (0x140, Requires::Intel), // MISC_FEATURES_ENABLES
    (0x4b56_4d00, kvm(3)),    // KVM_WALL_CLOCK
    (0x4b56_4d01, kvm(3)),    // KVM_SYSTEM_TIME
    (0x4b56_4d03, kvm(5)),    // KVM_STEAL_TIME
    (0x4b56_4d04, kvm(6)),    // KVM_PV_EOI
    (0x4b56_4d05, kvm(12)),   // KVM_POLL_CONTROL
    (0x4b56_4d02, kvm(4)),    // KVM_ASYNC_PF
    (0x4b56_4d06, kvm(14)),   // KVM_ASYNC_PF_INT
    (0x3b, Requires::OneOf(&[(7, 0, Register::Ebx, 1 << 1)])), // TSC_ADJUST
    (TIME_STAMP_COUNTER, Requires::Always),
    (0x1d9, Requires::Always), // DEBUGCTL
    (0x6e0, Requires::Always), // TSC_DEADLINE
];

impl Requires {
    fn holds(self, cpuid: &[CpuidLeaf]) -> bool {
        let word = |function: u32, index: u32, register: Register| {
            let leaf = cpuid.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
            leaf.map_or(0, |leaf| leaf.register(register))
        };
        match self {
            Self::Always => true,
            Self::OneOf(bits) => bits.iter().any(|(function, index, register, mask)| {
                word(*function, *index, *register) & mask != 0
            }),
            Self::Paravirtual(mask) => word(KVM_CPUID_FEATURES, 0, Register::Eax) & mask != 0,
            Self::Intel => word(0, 0, Register::Ebx).to_le_bytes() == *b"Genu",
        }
    }
}

/// The registers of a guest with this CPUID.
fn saved(cpuid: &[CpuidLeaf]) -> Vec<u32> {
    SAVED.iter().filter(|(_, has)| has.holds(cpuid)).map(|(index, _)| *index).collect()
}

/// Reads the registers that this vCPU has.
pub(super) fn read(fd: &VcpuFd, cpuid: &[CpuidLeaf]) -> Result<Vec<Msr>, HypervisorError> {
    let mut wanted = saved(cpuid);
    loop {
        let mut msrs = entries(wanted.iter().map(|index| (*index, 0)))?;
        let count = fd.get_msrs(&mut msrs).map_err(call("KVM_GET_MSRS"))?;
        if count == wanted.len() {
            let read = msrs.as_slice().iter();
            return Ok(read.map(|msr| Msr { index: msr.index, value: msr.data }).collect());
        }
        // The kernel stops at the first register that it lacks.
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

/// Sets the time-stamp counter far off, so that it can be set back afterwards.
///
/// The kernel treats a write within a second of the counter's value as an attempt to synchronise
/// processors, and ignores it. A write that follows one far off takes effect.
pub(super) fn leave_time(fd: &VcpuFd, msrs: &[Msr]) -> Result<(), HypervisorError> {
    const FAR: u64 = 1 << 60;
    let counter = msrs.iter().find(|msr| msr.index == TIME_STAMP_COUNTER);
    let far = counter.map(|msr| Msr { value: msr.value ^ FAR, ..*msr });
    far.map_or(Ok(()), |far| write(fd, &[far]))
}

fn entries(msrs: impl Iterator<Item = (u32, u64)>) -> Result<Msrs, HypervisorError> {
    let entries: Vec<kvm_msr_entry> =
        msrs.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries)
        .map_err(|_| HypervisorError::Capability { capability: "room for the MSRs of a snapshot" })
}

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::Baseline;

    use super::*;
    use crate::arch::x86_64::model;

    #[test]
    fn saved_registers_of_named_baseline_exist_on_every_model() {
        for baseline in [Baseline::V2, Baseline::V3] {
            let saved = saved(&model::answers(baseline));
            for index in [0xda0, 0x48, 0x140, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d05, 0x4b56_4d06] {
                assert!(!saved.contains(&index), "{baseline}: {index:#x}");
            }
            for index in [0x10, 0x3b, 0x6e0, 0xc000_0082, 0x4b56_4d01, 0x4b56_4d04] {
                assert!(saved.contains(&index), "{baseline}: {index:#x}");
            }
        }
        assert!(saved(&model::answers(Baseline::V3)).contains(&0xc000_0103));
        assert!(!saved(&model::answers(Baseline::V2)).contains(&0xc000_0103));
    }

    #[test]
    fn register_is_saved_if_cpuid_shows_its_feature() {
        let leaf = CpuidLeaf {
            function: 7,
            index: 0,
            indexed: true,
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 1 << 26,
        };
        assert!(saved(&[leaf]).contains(&0x48));
    }
}
