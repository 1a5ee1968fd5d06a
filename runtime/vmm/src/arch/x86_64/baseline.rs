//! Whether a host's processor can continue a snapshot.
//!
//! Decided before the guest runs, from what the processor reports about itself. What the
//! hypervisor offers matters once only: when a machine that was never run gets its CPUID.

use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::x86_64::baseline::{Processor, Register, missing};
use supermachine_formats::snapshot::arch::x86_64::{CpuidLeaf, State, Vcpu};

use crate::arch::mismatch::Mismatch;

/// The leaf with the vendor's name.
const VENDOR: u32 = 0;
/// The leaf with the parts of the extended state.
const EXTENDED_STATE: u32 = 0xd;

/// Refuses a state whose guest uses features that the host's processor lacks. `word` reads a
/// register of the host's own CPUID.
pub(crate) fn check(
    state: &State,
    word: impl Fn(u32, u32, Register) -> u32,
) -> Result<(), Mismatch> {
    let Processor { baseline, features } = &state.processor;
    let missing = missing(features, &word);
    if !missing.0.is_empty() {
        return Err(Mismatch::Features { baseline: *baseline, missing });
    }
    match answer(&state.vcpus, VENDOR, 0) {
        // A named baseline has an identity of its own.
        Some(leaf) if *baseline == Baseline::Host => check_vendor(leaf, word),
        _ => Ok(()),
    }
}

/// Gives the vCPUs of a machine that was never run their CPUID, and enables every part of the
/// extended state in it, as firmware may. The kernel would do so itself, but emulated hosts do
/// not notice, and then report sizes that do not fit.
pub(crate) fn complete<E>(
    state: &mut State,
    mut cpuid: impl FnMut(Baseline, u16, u16) -> Result<Vec<CpuidLeaf>, E>,
) -> Result<(), E> {
    let baseline = state.processor.baseline;
    let count = u16::try_from(state.vcpus.len()).unwrap_or(u16::MAX);
    for (index, vcpu) in (0..).zip(&mut state.vcpus) {
        if vcpu.cpuid.is_empty() {
            vcpu.cpuid = cpuid(baseline, index, count)?;
            let parts = find(&vcpu.cpuid, EXTENDED_STATE, 0).map(|leaf| leaf.eax.into());
            vcpu.xcr0 = vcpu.xcr0.or(parts);
        }
    }
    Ok(())
}

/// What a captured machine that was restored from `origin` requires of a processor.
pub(crate) fn required<'a>(
    origin: &Processor,
    vcpus: impl IntoIterator<Item = &'a Vcpu>,
    word: impl Fn(u32, u32, Register) -> u32,
) -> Processor {
    let mut processor = origin.clone();
    let first = vcpus.into_iter().next();
    let shown = |function, index, register| {
        let leaf = first.and_then(|vcpu| find(&vcpu.cpuid, function, index));
        leaf.map_or(0, |leaf| leaf.register(register))
    };
    processor.note(shown, word);
    processor
}

fn check_vendor(
    leaf: &CpuidLeaf,
    word: impl Fn(u32, u32, Register) -> u32,
) -> Result<(), Mismatch> {
    let found = vendor(|register| leaf.register(register));
    let host = vendor(|register| word(VENDOR, 0, register));
    if found == host { Ok(()) } else { Err(Mismatch::Vendor { found, host }) }
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
