//! What this host's KVM shows to guests.
//!
//! Only a vCPU knows. The first VM of a process makes one in a VM of its own, and remembers the
//! answer: the lock guards it, and is held meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVMIO, kvm_vcpu_init, reg_mask_range};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::processor::is_identification;
use supermachine_formats::snapshot::arch::aarch64::{Processor, SystemRegister};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_ior_nr;

use super::register;
use crate::arch::aarch64::layout::ADDRESS_BITS;
use crate::arch::aarch64::processor::Host;
use crate::arch::aarch64::registers::MIDR;
use crate::arch::host::counter_frequency;
use crate::backend::HypervisorError;
use crate::backend::kvm::system::call;

ioctl_ior_nr!(KVM_ARM_GET_REG_WRITABLE_MASKS, KVMIO, 0xb6, reg_mask_range);

/// Registers in the kernel's answer: those with an op0 of 3, an op1 of 0, 1 or 3, a CRn of 0, and a
/// CRm of 0 to 7.
const MASKS: usize = 3 * 8 * 8;

static HOST: Mutex<Option<Arc<Host>>> = Mutex::new(None);

/// Creates a VM with the address space of a machine, which may be less than the kernel's default.
pub(super) fn create_vm(kvm: &Kvm) -> Result<VmFd, HypervisorError> {
    kvm.create_vm_with_ipa_size(ADDRESS_BITS).map_err(call("KVM_CREATE_VM"))
}

/// What every vCPU is created with. `is_first` tells the one that runs from the start.
pub(super) fn features(vm: &VmFd, is_first: bool) -> Result<kvm_vcpu_init, HypervisorError> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).map_err(call("KVM_ARM_PREFERRED_TARGET"))?;
    init.features[0] |= 1 << kvm_bindings::KVM_ARM_VCPU_PSCI_0_2;
    if !is_first {
        init.features[0] |= 1 << kvm_bindings::KVM_ARM_VCPU_POWER_OFF;
    }
    Ok(init)
}

/// What this host shows to guests.
pub(super) fn host(kvm: &Kvm) -> Result<Arc<Host>, HypervisorError> {
    let mut known = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(host) = known.as_ref() {
        return Ok(Arc::clone(host));
    }
    let host = Arc::new(ask(kvm)?);
    *known = Some(Arc::clone(&host));
    Ok(host)
}

fn ask(kvm: &Kvm) -> Result<Host, HypervisorError> {
    let vm = create_vm(kvm)?;
    let vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    vcpu.vcpu_init(&features(&vm, true)?).map_err(call("KVM_ARM_VCPU_INIT"))?;
    let masks = writable_masks(&vm);
    let registers = shown(&vcpu, Baseline::Host)?;
    let with_mask = |register: SystemRegister| {
        let mask = mask_index(register.encoding).and_then(|index| masks.get(index));
        (register, mask.copied().unwrap_or(0))
    };
    Ok(Host {
        midr: registers.midr,
        registers: registers.registers.into_iter().map(with_mask).collect(),
        frequency_hz: counter_frequency(),
    })
}

/// The processor that a vCPU shows to its guest.
pub(super) fn shown(vcpu: &VcpuFd, baseline: Baseline) -> Result<Processor, HypervisorError> {
    let listed = register::list(vcpu)?.into_iter().filter_map(register::encoding_of);
    let mut listed: Vec<u16> = listed.filter(|encoding| is_identification(*encoding)).collect();
    listed.sort_unstable();
    let registers = listed.into_iter().map(|encoding| {
        let value = register::read(vcpu, register::system(encoding))?;
        Ok(SystemRegister { encoding, value })
    });
    Ok(Processor {
        baseline,
        midr: register::read(vcpu, register::system(MIDR))?,
        registers: registers.collect::<Result<_, HypervisorError>>()?,
    })
}

/// The bits of identification registers that a guest may be shown otherwise; none on kernels before
/// 6.7, which show a host's own only.
fn writable_masks(vm: &VmFd) -> [u64; MASKS] {
    let mut masks = [0; MASKS];
    let addr = masks.as_mut_ptr() as u64;
    let mut request = reg_mask_range { addr, ..Default::default() };
    // SAFETY: the kernel reads one `reg_mask_range` and writes a mask for each register of range 0 to
    // its address, where as many have room and nothing else refers to them meanwhile.
    let answer = unsafe { ioctl_with_mut_ref(vm, KVM_ARM_GET_REG_WRITABLE_MASKS(), &mut request) };
    if answer < 0 { [0; MASKS] } else { masks }
}

/// The place of a register in the kernel's answer.
fn mask_index(encoding: u16) -> Option<usize> {
    let field = |shift: u32, mask: u16| usize::from(encoding >> shift & mask);
    let (op1, crn, crm, op2) = (field(11, 7), field(7, 15), field(3, 15), field(0, 7));
    let row = [0, 1, 3].iter().position(|known| *known == op1)?;
    (crn == 0 && crm < 8).then_some((row << 6) | (crm << 3) | op2)
}
