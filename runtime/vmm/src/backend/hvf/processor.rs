//! What this host's framework shows to guests: the identification registers.
//!
//! Some of their fields can be changed before a vCPU runs, and only trying tells which. That is done
//! on a vCPU in a VM of its own, because a VM's vCPUs are destroyed only together with it.

use std::ptr;

use applevisor_sys::{
    hv_feature_reg_t, hv_sys_reg_t as Reg, hv_vcpu_config_create, hv_vcpu_config_get_feature_reg,
};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::processor::{CTR, ISAR1, MMFR0, PFR0, PFR1};
use supermachine_formats::snapshot::arch::aarch64::{Processor, SystemRegister};

use super::cpu::Cpu;
use super::error::check;
use super::framework::Object;
use super::gic::Controller;
use super::instance::Instance;
use super::registers::encoding_of;
use crate::arch::aarch64::processor::Host;
use crate::arch::aarch64::registers::name;
use crate::backend::HypervisorError;

/// The identification registers of the framework, by rising encoding.
const IDENTIFICATION: [Reg; 9] = [
    Reg::ID_AA64PFR0_EL1,
    Reg::ID_AA64PFR1_EL1,
    Reg::ID_AA64DFR0_EL1,
    Reg::ID_AA64DFR1_EL1,
    Reg::ID_AA64ISAR0_EL1,
    Reg::ID_AA64ISAR1_EL1,
    Reg::ID_AA64MMFR0_EL1,
    Reg::ID_AA64MMFR1_EL1,
    Reg::ID_AA64MMFR2_EL1,
];

/// ID_AA64DFR0_EL1, the debugger's features.
const DFR0: u16 = encoding_of(Reg::ID_AA64DFR0_EL1);

const fn field(shift: u32) -> u64 {
    0xf << shift
}

/// Features that no guest sees: their state is not part of a snapshot, or depends on the core.
const HIDDEN: [(u16, u64); 4] = [
    // Vectors of scalable length.
    (PFR0, field(32)),
    // Tags; matrices.
    (PFR1, field(8) | field(24)),
    // Performance counters, profiling, tracing.
    (DFR0, field(4) | field(8) | field(32) | field(40)),
    // Pointer authentication.
    (ISAR1, field(4) | field(8) | field(24) | field(28)),
];

/// ID_AA64PFR0_EL1.GIC: registers of an interrupt controller's CPU interface.
const GIC_SHIFT: u32 = 24;

/// Reads what this host shows to guests, in a VM that is destroyed on return.
pub(super) fn ask(frequency_hz: u32) -> Result<Host, HypervisorError> {
    let instance = Instance::new()?;
    Controller::new()?;
    let cpu = Cpu::new()?;
    let mut registers = Vec::new();
    for register in IDENTIFICATION {
        let (encoding, shown) = (encoding_of(register), cpu.system(register)?);
        let writable = writable(&cpu, register, shown);
        let offered = offered(encoding, shown, instance.address_bits());
        let value = (shown & !writable) | (offered & writable);
        registers.push((SystemRegister { encoding, value }, writable));
    }
    registers.push((SystemRegister { encoding: CTR, value: cache_type()? }, 0));
    Ok(Host { midr: cpu.system(Reg::MIDR_EL1)?, registers, frequency_hz })
}

/// The processor that a vCPU shows to its guest.
pub(super) fn shown(cpu: &Cpu) -> Result<Processor, HypervisorError> {
    let read = |register: Reg| {
        Ok(SystemRegister { encoding: encoding_of(register), value: cpu.system(register)? })
    };
    let registers = IDENTIFICATION.into_iter().map(read);
    let mut registers = registers.collect::<Result<Vec<_>, HypervisorError>>()?;
    registers.push(SystemRegister { encoding: CTR, value: cache_type()? });
    // The snapshot knows its baseline.
    Ok(Processor { baseline: Baseline::Host, midr: cpu.system(Reg::MIDR_EL1)?, registers })
}

/// Shows the guest the processor that it saw, or shall see. Only before it runs.
pub(super) fn identify(cpu: &Cpu, wanted: &[SystemRegister]) -> Result<(), HypervisorError> {
    for SystemRegister { encoding, value } in wanted {
        if !show(cpu, *encoding, *value)? {
            return Err(HypervisorError::Register { name: name(*encoding) });
        }
    }
    Ok(())
}

/// Gives an identification register a value. Returns whether it has it then.
fn show(cpu: &Cpu, encoding: u16, value: u64) -> Result<bool, HypervisorError> {
    if encoding == CTR {
        return Ok(cache_type()? == value);
    }
    let known = IDENTIFICATION.into_iter().find(|register| encoding_of(*register) == encoding);
    // A register that the framework does not have reads as zero.
    let Some(register) = known else { return Ok(value == 0) };
    if cpu.system(register)? != value {
        let is_set = cpu.set_system(register, value).is_ok();
        return Ok(is_set && cpu.system(register)? == value);
    }
    Ok(true)
}

/// The bits of the fields that a guest may be shown otherwise.
fn writable(cpu: &Cpu, register: Reg, shown: u64) -> u64 {
    let mut writable = 0;
    for field in (0..64).step_by(4).map(field) {
        // A feature is hidden if it is there, and shown if it is not.
        let other = if shown & field == 0 { field & 0x1111_1111_1111_1111 } else { 0 };
        let changed = (shown & !field) | other;
        let is_set = cpu.set_system(register, changed).is_ok();
        if is_set && cpu.system(register).is_ok_and(|value| value == changed) {
            writable |= field;
        }
        // Refused only if the former write was.
        let _ = cpu.set_system(register, shown);
    }
    writable
}

/// What a guest is to see of a register whose value the framework shows.
fn offered(encoding: u16, shown: u64, address_bits: u32) -> u64 {
    let hidden = HIDDEN.iter().find(|(register, _)| *register == encoding);
    let value = shown & !hidden.map_or(0, |(_, fields)| *fields);
    match encoding {
        PFR0 if value & field(GIC_SHIFT) == 0 => value | 1 << GIC_SHIFT,
        MMFR0 => (value & !field(0)) | (value & field(0)).min(address_range(address_bits)),
        _ => value,
    }
}

/// ID_AA64MMFR0_EL1.PARange for an address space.
fn address_range(bits: u32) -> u64 {
    const SIZES: [(u32, u64); 6] = [(48, 5), (44, 4), (42, 3), (40, 2), (36, 1), (32, 0)];
    SIZES.iter().find(|(size, _)| *size <= bits).map_or(0, |(_, range)| *range)
}

/// CTR_EL0, which every vCPU shows.
fn cache_type() -> Result<u64, HypervisorError> {
    // SAFETY: the function has no preconditions.
    let config = unsafe { hv_vcpu_config_create() };
    // SAFETY: the object is new, and nothing else releases it.
    let config = unsafe { Object::take(config) }
        .ok_or(HypervisorError::Capability { capability: "a configuration of vCPUs" })?;
    let mut value = 0;
    let value_at = ptr::from_mut(&mut value);
    // SAFETY: the configuration is alive, and the result has room.
    let result = unsafe {
        hv_vcpu_config_get_feature_reg(config.as_ptr(), hv_feature_reg_t::CTR_EL0, value_at)
    };
    check("hv_vcpu_config_get_feature_reg", result).map(|()| value)
}

#[cfg(test)]
mod tests;
