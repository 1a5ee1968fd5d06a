//! Whether this host's processor is one that a snapshot can go on with.
//!
//! Judged before anything of the guest runs, by what the processor says of itself: what the
//! hypervisor supports is asked once, when a machine that was never run is given its CPUID.

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::arch::x86_64::baseline::Register;
use supermachine_formats::snapshot::arch::x86_64::{CpuidLeaf, Vcpu};
use supermachine_formats::snapshot::arch::{Baseline, Features, Processor};

use super::MachineError;
use super::hypervisor::{HypervisorError, Vm};

/// The answer of the CPUID instruction that tells the vendor.
const VENDOR: u32 = 0;
/// The answer that tells the parts of the extended state.
const EXTENDED_STATE: u32 = 0xd;

/// Refuses a snapshot whose guest uses what this host's processor has not.
pub(super) fn check(vm: &dyn Vm, snapshot: &Snapshot) -> Result<(), MachineError> {
    let Processor { baseline, features } = &snapshot.arch.processor;
    let own = |function, index, register| vm.processor_word(function, index, register);
    let missing = Features::missing(features, own);
    if !missing.0.is_empty() {
        return Err(MachineError::Features { baseline: *baseline, missing });
    }
    match answer(&snapshot.arch.vcpus, VENDOR, 0) {
        // A named baseline has an identity of its own.
        Some(leaf) if *baseline == Baseline::Host => check_vendor(vm, leaf),
        _ => Ok(()),
    }
}

/// Gives the vCPUs of a machine that was never run their CPUID, and switches on all parts of
/// the extended state that it tells, as firmware may. The kernel would do so itself, but
/// emulated hosts do not notice that, and tell sizes that do not fit then.
pub(super) fn complete(
    vm: &dyn Vm,
    baseline: Baseline,
    states: &mut [Vcpu],
) -> Result<(), HypervisorError> {
    let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
    for (index, state) in (0..).zip(states) {
        if state.cpuid.is_empty() {
            state.cpuid = vm.cpuid(baseline, index, count)?;
            let parts = find(&state.cpuid, EXTENDED_STATE, 0).map(|leaf| leaf.eax.into());
            state.xcr0 = state.xcr0.or(parts);
        }
    }
    Ok(())
}

/// What a captured machine asks of a processor, where it was made on `origin`.
pub(super) fn note(vm: &dyn Vm, origin: &Processor, vcpus: &[Vcpu]) -> Processor {
    let mut processor = origin.clone();
    let shown = |function, index, register| {
        answer(vcpus, function, index).map_or(0, |leaf| leaf.register(register))
    };
    processor.note(shown, |function, index, register| vm.processor_word(function, index, register));
    processor
}

fn check_vendor(vm: &dyn Vm, leaf: &CpuidLeaf) -> Result<(), MachineError> {
    let own = |register| vm.processor_word(VENDOR, 0, register);
    let found = vendor(|register| leaf.register(register));
    let host = vendor(own);
    if found == host { Ok(()) } else { Err(MachineError::Vendor { found, host }) }
}

fn vendor(word: impl Fn(Register) -> u32) -> String {
    let words = [Register::Ebx, Register::Edx, Register::Ecx].map(|part| word(part).to_le_bytes());
    String::from_utf8_lossy(&words.concat()).into_owned()
}

fn answer(vcpus: &[Vcpu], function: u32, index: u32) -> Option<&CpuidLeaf> {
    find(&vcpus.first()?.cpuid, function, index)
}

fn find(leaves: &[CpuidLeaf], function: u32, index: u32) -> Option<&CpuidLeaf> {
    leaves.iter().find(|leaf| leaf.function == function && (!leaf.indexed || leaf.index == index))
}
