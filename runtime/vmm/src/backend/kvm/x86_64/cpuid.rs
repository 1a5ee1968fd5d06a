//! A guest's CPUID.
//!
//! A snapshot that was never run has no CPUID of its own. It gets that of its baseline's [`model`], if
//! the kernel offers all of it. For `host` it gets what the kernel offers, less what a restore could
//! not bring back: nested virtualization, performance counters, tile state, asynchronous page
//! faults. Both get the topology of one package of single-thread cores.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Kvm, VcpuFd};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::x86_64::CpuidLeaf;
use supermachine_formats::snapshot::arch::x86_64::baseline::missing;

use crate::arch::x86_64::model::{self, KVM_CPUID_FEATURES};
use crate::backend::HypervisorError;
use crate::backend::kvm::system::call;

/// KVM's paravirtual features that are hidden from guests: each registers guest memory that the
/// host would keep writing to. Bits of leaf 0x4000_0001's EAX.
const HIDDEN_KVM_FEATURES: u32 = (1 << 4) | (1 << 5) | (1 << 10) | (1 << 14) | (1 << 17);

/// Parts of the extended state that fit the saved area: x87, SSE, AVX, MPX, AVX-512, PKRU.
const XSAVE_FEATURES: u32 = 0x2ff;

const XSAVE: u32 = 1 << 26;

/// The largest XSAVE area with [`XSAVE_FEATURES`].
const XSAVE_AREA: u32 = 2696;

/// Reads a vCPU's CPUID.
pub(super) fn read(fd: &VcpuFd) -> Result<Vec<CpuidLeaf>, HypervisorError> {
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_CPUID2"))?;
    Ok(cpuid.as_slice().iter().map(leaf).collect())
}

/// Sets a vCPU's CPUID.
pub(super) fn write(fd: &VcpuFd, leaves: &[CpuidLeaf]) -> Result<(), HypervisorError> {
    let entries: Vec<kvm_cpuid_entry2> = leaves.iter().map(entry).collect();
    let cpuid = CpuId::from_entries(&entries).map_err(|_| HypervisorError::Capability {
        capability: "room for the CPUID answers of a snapshot",
    })?;
    fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))
}

/// The CPUID of vCPU `index` of `count` on a machine that was never run.
pub(super) fn answers(
    kvm: &Kvm,
    baseline: Baseline,
    index: u16,
    count: u16,
) -> Result<Vec<CpuidLeaf>, HypervisorError> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
    let supported: Vec<CpuidLeaf> = supported.as_slice().iter().map(leaf).collect();
    let mut leaves = match baseline {
        Baseline::Host => {
            let mut leaves = supported;
            leaves.iter_mut().for_each(trim);
            leaves.retain(is_kept);
            leaves
        }
        _ => {
            check(&supported, baseline)?;
            model::answers(baseline)
        }
    };
    for leaf in &mut leaves {
        place(leaf, index.into(), count.into());
    }
    Ok(leaves)
}

/// The parts of the extended state that a guest with this CPUID can use; `None` without XSAVE.
pub(super) fn extended_state(leaves: &[CpuidLeaf]) -> Option<u64> {
    let answer = |function| leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, 0));
    let has_xsave = answer(1).is_some_and(|leaf| leaf.ecx & XSAVE != 0);
    let state = answer(0xd).filter(|_| has_xsave)?;
    Some(u64::from(state.eax) | (u64::from(state.edx) << 32))
}

/// Refuses a kernel that does not offer guests all of a baseline. Features that hypervisors provide
/// on every processor are not checked: some kernels provide them without reporting them.
fn check(supported: &[CpuidLeaf], baseline: Baseline) -> Result<(), HypervisorError> {
    let missing = missing(&baseline.required(), |function, index, register| {
        let place = |leaf: &&CpuidLeaf| (leaf.function, leaf.index) == (function, index);
        supported.iter().find(place).map_or(0, |leaf| leaf.register(register))
    });
    if missing.0.is_empty() { Ok(()) } else { Err(HypervisorError::Features { baseline, missing }) }
}

/// Whether to keep a leaf: [`trim`] removes some parts of the extended state.
fn is_kept(entry: &CpuidLeaf) -> bool {
    entry.function != 0xd
        || entry.index < 2
        || XSAVE_FEATURES.checked_shr(entry.index).is_some_and(|bits| bits & 1 == 1)
}

/// Removes features that a snapshot could not bring back.
fn trim(entry: &mut CpuidLeaf) {
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ecx &= !(1 << 5); // VMX
            entry.ecx |= (1 << 24) | (1 << 31); // TSC deadline timer, hypervisor
        }
        (7, 0) => entry.edx &= !((1 << 22) | (1 << 24) | (1 << 25)), // AMX
        (7, 1) => entry.eax &= !(1 << 21),                           // AMX-FP16
        (0xa, _) | (0x8000_0022, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        (0xd, 0) => {
            entry.eax &= XSAVE_FEATURES;
            entry.edx = 0;
            entry.ebx = entry.ebx.min(XSAVE_AREA);
            entry.ecx = entry.ecx.min(XSAVE_AREA);
        }
        (0xd, 1) => (entry.ecx, entry.edx) = (0, 0), // supervisor state
        (0x8000_0001, _) => {
            entry.ecx &= !((1 << 2) | (1 << 23) | (1 << 24) | (1 << 28)); // SVM, counters
        }
        (0x8000_000a, _) => (entry.eax, entry.ebx, entry.edx) = (0, 0, 0),
        (KVM_CPUID_FEATURES, _) => entry.eax &= !HIDDEN_KVM_FEATURES,
        _ => {}
    }
}

/// Describes one package in which each vCPU is a core of its own.
fn place(entry: &mut CpuidLeaf, index: u32, count: u32) {
    let id_bits = u32::BITS - count.saturating_sub(1).leading_zeros();
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ebx = (entry.ebx & 0xffff) | (count.min(255) << 16) | (index << 24);
            set_bit(&mut entry.edx, 28, count > 1);
        }
        (4, _) => entry.eax = (entry.eax & 0x3fff) | (count.saturating_sub(1).min(63) << 26),
        (0xb | 0x1f, level) => {
            (entry.eax, entry.ebx, entry.ecx) = match level {
                0 => (0, 1, 0x100),
                1 => (id_bits, count, 0x201),
                _ => (0, 0, level & 0xff),
            };
            entry.edx = index;
        }
        (0x8000_0001, _) => set_bit(&mut entry.ecx, 1, count > 1),
        (0x8000_0008, _) => {
            entry.ecx = (id_bits << 12) | count.saturating_sub(1).min(255);
        }
        (0x8000_001d, index) => {
            // All cores share the last cache.
            let sharing = if index == 3 { count.saturating_sub(1) & 0xfff } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        }
        (0x8000_001e, _) => {
            (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xff, 0);
        }
        _ => {}
    }
}

fn set_bit(register: &mut u32, bit: u32, value: bool) {
    *register = (*register & !(1 << bit)) | (u32::from(value) << bit);
}

fn leaf(from: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf {
        function: from.function,
        index: from.index,
        indexed: from.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: from.eax,
        ebx: from.ebx,
        ecx: from.ecx,
        edx: from.edx,
    }
}

fn entry(from: &CpuidLeaf) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: from.function,
        index: from.index,
        flags: if from.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: from.eax,
        ebx: from.ebx,
        ecx: from.ecx,
        edx: from.edx,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(function: u32, index: u32) -> CpuidLeaf {
        let all = u32::MAX;
        CpuidLeaf { function, index, indexed: true, eax: all, ebx: all, ecx: all, edx: all }
    }

    #[test]
    fn leaf_round_trips() {
        let before = answer(7, 1);
        assert_eq!(leaf(&entry(&before)), before);
    }

    #[test]
    fn trim_hides_tile_state_and_nested_virtualization() {
        let mut features = answer(7, 0);
        trim(&mut features);
        assert_eq!(features.edx & (1 << 24), 0);
        let mut amd = answer(0x8000_0001, 0);
        trim(&mut amd);
        assert_eq!(amd.ecx & (1 << 2), 0);
        assert!(is_kept(&answer(0xd, 2)) && !is_kept(&answer(0xd, 18)));
    }

    #[test]
    fn check_without_all_of_a_baseline_names_the_features() {
        let mut offered: Vec<CpuidLeaf> = model::answers(Baseline::V3);
        assert!(check(&offered, Baseline::V3).is_ok());
        offered.iter_mut().filter(|leaf| leaf.function == 7).for_each(|leaf| leaf.ebx &= !0x120);
        let error = check(&offered, Baseline::V3).unwrap_err().to_string();
        assert_eq!(error, "hypervisor offers guests no avx2, bmi2, which x86-64-v3 has");
        assert!(check(&offered, Baseline::V2).is_ok());
    }

    #[test]
    fn extended_state_is_that_of_the_model() {
        assert_eq!(extended_state(&model::answers(Baseline::V3)), Some(7));
        assert_eq!(extended_state(&model::answers(Baseline::V2)), None);
    }

    #[test]
    fn place_of_sixteen_vcpus_makes_cores_of_one_package() {
        let mut topology = answer(0xb, 1);
        place(&mut topology, 5, 16);
        assert_eq!((topology.eax, topology.ebx, topology.edx), (4, 16, 5));
        let mut identity = answer(1, 0);
        place(&mut identity, 5, 16);
        assert_eq!(identity.ebx >> 24, 5);
    }
}
