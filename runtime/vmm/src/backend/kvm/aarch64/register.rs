//! KVM's names of registers.

use kvm_bindings::{
    KVM_REG_ARM_COPROC_MASK, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG,
    KVM_REG_SIZE_MASK, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64, KVM_REG_SIZE_U128, RegList, kvm_regs,
    user_pt_regs,
};
use kvm_ioctls::VcpuFd;
use supermachine_formats::snapshot::arch::aarch64::encoding;

use crate::arch::aarch64::registers;
use crate::backend::HypervisorError;
use crate::backend::kvm::system::call;

/// The most registers that a vCPU may list; kernels list some 250.
const MAX_LISTED: usize = 500;

/// KVM has swapped the virtual counter and its timer's compare value: the encoding of either is
/// the name of the other.
pub(super) const VIRTUAL_COUNTER: u64 = system(encoding(3, 3, 14, 3, 2));
pub(super) const VIRTUAL_COMPARE: u64 = system(encoding(3, 3, 14, 0, 2));
pub(super) const VIRTUAL_CONTROL: u64 = system(encoding(3, 3, 14, 3, 1));
pub(super) const PHYSICAL_COMPARE: u64 = system(encoding(3, 3, 14, 2, 2));
pub(super) const PHYSICAL_CONTROL: u64 = system(encoding(3, 3, 14, 2, 1));

const CORE: u64 = KVM_REG_ARM64 | KVM_REG_ARM_CORE as u64;

/// The name of a system register.
pub(super) const fn system(encoding: u16) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | encoding as u64
}

/// A register of `kvm_regs` at this offset, counted in words of 32 bits.
const fn core(size: u64, offset: usize) -> u64 {
    CORE | size | (offset / size_of::<u32>()) as u64
}

const REGS: usize = std::mem::offset_of!(kvm_regs, regs);
const FP_REGS: usize = std::mem::offset_of!(kvm_regs, fp_regs);

/// The name of a general register, X0 to X30.
pub(super) const fn general(index: usize) -> u64 {
    core(KVM_REG_SIZE_U64, REGS + std::mem::offset_of!(user_pt_regs, regs) + index * 8)
}

/// The name of a SIMD register, V0 to V31.
pub(super) const fn simd(index: usize) -> u64 {
    let offset = std::mem::offset_of!(kvm_bindings::user_fpsimd_state, vregs);
    core(KVM_REG_SIZE_U128, FP_REGS + offset + index * 16)
}

pub(super) const SP_EL0: u64 =
    core(KVM_REG_SIZE_U64, REGS + std::mem::offset_of!(user_pt_regs, sp));
pub(super) const PC: u64 = core(KVM_REG_SIZE_U64, REGS + std::mem::offset_of!(user_pt_regs, pc));
pub(super) const PSTATE: u64 =
    core(KVM_REG_SIZE_U64, REGS + std::mem::offset_of!(user_pt_regs, pstate));
pub(super) const SP_EL1: u64 = core(KVM_REG_SIZE_U64, std::mem::offset_of!(kvm_regs, sp_el1));
pub(super) const ELR_EL1: u64 = core(KVM_REG_SIZE_U64, std::mem::offset_of!(kvm_regs, elr_el1));
pub(super) const SPSR_EL1: u64 = core(KVM_REG_SIZE_U64, std::mem::offset_of!(kvm_regs, spsr));
pub(super) const FPSR: u64 =
    core(KVM_REG_SIZE_U32, FP_REGS + std::mem::offset_of!(kvm_bindings::user_fpsimd_state, fpsr));
pub(super) const FPCR: u64 =
    core(KVM_REG_SIZE_U32, FP_REGS + std::mem::offset_of!(kvm_bindings::user_fpsimd_state, fpcr));

/// The encoding of a system register with this name; `None` for other registers.
pub(super) fn encoding_of(name: u64) -> Option<u16> {
    let kind = KVM_REG_SIZE_MASK | u64::from(KVM_REG_ARM_COPROC_MASK);
    let is_system = name & kind == KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG);
    is_system.then_some(name as u16)
}

/// The names of every register that a vCPU has.
pub(super) fn list(fd: &VcpuFd) -> Result<Vec<u64>, HypervisorError> {
    let mut list = RegList::new(MAX_LISTED).map_err(|_| HypervisorError::Capability {
        capability: "room for the list of a processor's registers",
    })?;
    fd.get_reg_list(&mut list).map_err(call("KVM_GET_REG_LIST"))?;
    Ok(list.as_slice().to_vec())
}

/// Reads a register of 64 bits.
pub(super) fn read(fd: &VcpuFd, name: u64) -> Result<u64, HypervisorError> {
    let mut bytes = [0; 8];
    fd.get_one_reg(name, &mut bytes).map_err(call("KVM_GET_ONE_REG"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a register of 32 bits.
pub(super) fn read_half(fd: &VcpuFd, name: u64) -> Result<u32, HypervisorError> {
    let mut bytes = [0; 4];
    fd.get_one_reg(name, &mut bytes).map_err(call("KVM_GET_ONE_REG"))?;
    Ok(u32::from_le_bytes(bytes))
}

/// Reads a register of 128 bits as its lower and upper half.
pub(super) fn read_pair(fd: &VcpuFd, name: u64) -> Result<[u64; 2], HypervisorError> {
    let mut bytes = [0; 16];
    fd.get_one_reg(name, &mut bytes).map_err(call("KVM_GET_ONE_REG"))?;
    let value = u128::from_le_bytes(bytes);
    Ok([value as u64, (value >> 64) as u64])
}

/// Writes a register of any size. A refusal names a system register.
pub(super) fn write(fd: &VcpuFd, name: u64, bytes: &[u8]) -> Result<(), HypervisorError> {
    let result = fd.set_one_reg(name, bytes);
    match (result, encoding_of(name)) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(encoding)) => {
            Err(HypervisorError::Register { name: registers::name(encoding) })
        }
        (Err(errno), None) => Err(call("KVM_SET_ONE_REG")(errno)),
    }
}
