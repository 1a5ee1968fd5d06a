//! The framework's interrupt controller, a GICv3.
//!
//! Its state is opaque, except for the CPU interfaces, which belong to the vCPUs and their threads.

use std::ffi::c_void;

use supermachine_formats::snapshot::HypervisorFamily;
use supermachine_formats::snapshot::arch::aarch64::gic::MAX_OPAQUE_SIZE;
use supermachine_formats::snapshot::arch::aarch64::{Gic, SystemRegister};

use super::cpu::Cpu;
use super::error::check;
use super::framework::{GicFunctions, Object};
use crate::arch::aarch64::gic::{CPU_INTERFACE, has_cpu_register};
use crate::arch::aarch64::layout::{
    DISTRIBUTOR_START, FIRST_SHARED, INTERRUPTS, MAX_VCPUS, REDISTRIBUTOR_SIZE,
    REDISTRIBUTORS_START, VIRTUAL_TIMER,
};
use crate::arch::aarch64::registers::name;
use crate::backend::HypervisorError;

/// GICR_ISPENDR0, which makes a vCPU's own interrupts pending.
const SET_PENDING: u32 = 0x1_0200;

/// A VM's interrupt controller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Controller {
    functions: GicFunctions,
}

impl Controller {
    /// Creates the controller of this process's VM, which has no vCPUs yet.
    pub(super) fn new() -> Result<Self, HypervisorError> {
        let functions = GicFunctions::find().ok_or(HypervisorError::Capability {
            capability: "an interrupt controller for guests, which macOS has since version 15",
        })?;
        let controller = Self { functions };
        controller.check_place()?;
        // SAFETY: the function has no preconditions.
        let config = unsafe { (functions.config_create)() };
        // SAFETY: the object is new, and nothing else releases it.
        let config = unsafe { Object::take(config) }
            .ok_or(HypervisorError::Capability { capability: "an interrupt controller" })?;
        // SAFETY: the configuration is alive.
        let placed =
            unsafe { (functions.set_distributor_base)(config.as_ptr(), DISTRIBUTOR_START) };
        check("hv_gic_config_set_distributor_base", placed)?;
        // SAFETY: the configuration is alive.
        let placed =
            unsafe { (functions.set_redistributor_base)(config.as_ptr(), REDISTRIBUTORS_START) };
        check("hv_gic_config_set_redistributor_base", placed)?;
        // SAFETY: the configuration is alive. The framework refuses the call without a VM.
        check("hv_gic_create", unsafe { (functions.create)(config.as_ptr()) })?;
        controller.check_interrupts()?;
        Ok(controller)
    }

    /// Sends an edge of a shared interrupt.
    pub(super) fn send(&self, interrupt: u32) {
        // The framework refuses only interrupts that do not exist. It takes a high level for an edge
        // too, and the low one returns the line of an interrupt that the guest made level-triggered.
        for level in [true, false] {
            // SAFETY: the function has no preconditions.
            let _ = unsafe { (self.functions.set_spi)(interrupt, level) };
        }
    }

    /// Checks that a vCPU's registers are where the guest looks for them. On the vCPU's thread, after
    /// it has its affinity.
    pub(super) fn check_redistributor(&self, cpu: &Cpu) -> Result<(), HypervisorError> {
        let mut base = 0;
        // SAFETY: the vCPU exists, and the result has room.
        let result = unsafe { (self.functions.redistributor_base)(cpu.id(), &raw mut base) };
        check("hv_gic_get_redistributor_base", result)?;
        let end = REDISTRIBUTORS_START + REDISTRIBUTOR_SIZE * u64::from(MAX_VCPUS);
        if (REDISTRIBUTORS_START..end).contains(&base) {
            return Ok(());
        }
        Err(HypervisorError::Capability {
            capability: "an interrupt controller with its vCPUs' registers in one row",
        })
    }

    /// Makes the virtual timer's interrupt pending. On the vCPU's thread.
    pub(super) fn send_timer(&self, cpu: &Cpu) -> Result<(), HypervisorError> {
        let bit = 1 << VIRTUAL_TIMER;
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { (self.functions.set_redistributor_reg)(cpu.id(), SET_PENDING, bit) };
        check("hv_gic_set_redistributor_reg", result)
    }

    /// The registers of a vCPU's CPU interface, by rising encoding. On the vCPU's thread.
    pub(super) fn save_interface(&self, cpu: &Cpu) -> Result<Vec<SystemRegister>, HypervisorError> {
        let mut encodings: Vec<u16> = cpu_interface().collect();
        encodings.sort_unstable();
        let read = |encoding: u16| {
            let mut value = 0;
            // SAFETY: the vCPU exists on this thread, and the result has room.
            let result =
                unsafe { (self.functions.get_icc_reg)(cpu.id(), encoding, &raw mut value) };
            check("hv_gic_get_icc_reg", result)?;
            Ok(SystemRegister { encoding, value })
        };
        encodings.into_iter().map(read).collect()
    }

    /// Restores a CPU interface. On the vCPU's thread, after the controller.
    pub(super) fn load_interface(
        &self,
        cpu: &Cpu,
        saved: &[SystemRegister],
    ) -> Result<(), HypervisorError> {
        let saved = |wanted: u16| saved.iter().find(|saved| saved.encoding == wanted);
        for SystemRegister { encoding, value } in cpu_interface().filter_map(saved) {
            // SAFETY: the vCPU exists on this thread.
            let result = unsafe { (self.functions.set_icc_reg)(cpu.id(), *encoding, *value) };
            check("hv_gic_set_icc_reg", result)
                .map_err(|_| HypervisorError::Register { name: name(*encoding) })?;
        }
        Ok(())
    }

    /// Reads the state of everything but the CPU interfaces. No vCPU runs.
    pub(super) fn save(&self) -> Result<Gic, HypervisorError> {
        let functions = &self.functions;
        // SAFETY: the function has no preconditions.
        let object = unsafe { (functions.state_create)() };
        // SAFETY: the object is new, and nothing else releases it.
        let object = unsafe { Object::take(object) }.ok_or(HypervisorError::Capability {
            capability: "a state of the interrupt controller at this moment",
        })?;
        let mut size = 0;
        // SAFETY: the object is alive, and the result has room.
        let result = unsafe { (functions.state_size)(object.as_ptr(), &raw mut size) };
        check("hv_gic_state_get_size", result)?;
        if size == 0 || size > MAX_OPAQUE_SIZE {
            return Err(HypervisorError::Capability {
                capability: "a state of the interrupt controller that fits a snapshot",
            });
        }
        let mut state = vec![0_u8; size];
        let data = state.as_mut_ptr().cast::<c_void>();
        // SAFETY: the object is alive, and `data` has the room that it asked for.
        let result = unsafe { (functions.state_data)(object.as_ptr(), data) };
        check("hv_gic_state_get_data", result)?;
        Ok(Gic::Opaque { family: HypervisorFamily::Hvf, state })
    }

    /// Restores what [`Controller::save`] read. All vCPUs exist, and none runs. `is_used` says
    /// whether they have run.
    pub(super) fn restore(&self, gic: &Gic, is_used: bool) -> Result<(), HypervisorError> {
        check_state(gic)?;
        if is_used {
            // SAFETY: the function has no preconditions.
            check("hv_gic_reset", unsafe { (self.functions.reset)() })?;
        }
        let Gic::Opaque { state, .. } = gic else { return Ok(()) };
        // SAFETY: the framework reads that many bytes, and checks their form.
        let result = unsafe { (self.functions.set_state)(state.as_ptr().cast(), state.len()) };
        check("hv_gic_set_state", result)
    }

    /// Checks that the layout has room for the controller. What the framework calls the region of
    /// redistributors is that of as many vCPUs as it can have; those of a VM's own are checked one by
    /// one.
    fn check_place(&self) -> Result<(), HypervisorError> {
        let functions = &self.functions;
        let size = measure("hv_gic_get_distributor_size", functions.distributor_size)?;
        let alignment =
            measure("hv_gic_get_distributor_base_alignment", functions.distributor_alignment)?;
        let row = measure("hv_gic_get_redistributor_size", functions.redistributor_size)?;
        let row_alignment =
            measure("hv_gic_get_redistributor_base_alignment", functions.redistributor_alignment)?;
        let fits = DISTRIBUTOR_START.is_multiple_of(alignment)
            && REDISTRIBUTORS_START.is_multiple_of(row_alignment)
            && DISTRIBUTOR_START.saturating_add(size) <= REDISTRIBUTORS_START
            && row == REDISTRIBUTOR_SIZE;
        if fits {
            return Ok(());
        }
        Err(HypervisorError::Capability {
            capability: "an interrupt controller that fits the guest's address space",
        })
    }

    fn check_interrupts(&self) -> Result<(), HypervisorError> {
        let (mut first, mut count) = (0, 0);
        // SAFETY: both results have room.
        let result = unsafe { (self.functions.spi_range)(&raw mut first, &raw mut count) };
        check("hv_gic_get_spi_interrupt_range", result)?;
        if first <= FIRST_SHARED && first.saturating_add(count) >= INTERRUPTS.into() {
            return Ok(());
        }
        Err(HypervisorError::Capability { capability: "as many interrupts as a machine has" })
    }
}

/// Refuses a state that is no state of this controller.
pub(super) fn check_state(gic: &Gic) -> Result<(), HypervisorError> {
    let is_own = match gic {
        Gic::Opaque { family, state } => *family == HypervisorFamily::Hvf && !state.is_empty(),
        Gic::Registers(registers) => {
            if registers.interrupts != INTERRUPTS {
                return Err(HypervisorError::Capability {
                    capability: "as many interrupts as the snapshot's controller has",
                });
            }
            // Of a machine that was never run.
            registers.distributor.is_empty()
                && registers.lines.is_empty()
                && registers.redistributors.is_empty()
        }
    };
    if is_own {
        return Ok(());
    }
    Err(HypervisorError::Capability {
        capability: "a way to restore another hypervisor's interrupt controller",
    })
}

/// The registers of a CPU interface in the order of a restore. The framework has one register for
/// each group's active priorities, as a processor without more of them.
fn cpu_interface() -> impl Iterator<Item = u16> {
    const FEWEST_PRIORITIES: u64 = 0;
    CPU_INTERFACE.into_iter().filter(|register| has_cpu_register(*register, FEWEST_PRIORITIES))
}

/// Refuses a register that is no CPU interface's.
pub(super) fn check_interface(saved: &[SystemRegister]) -> Result<(), HypervisorError> {
    let is_known = |saved: &&SystemRegister| cpu_interface().any(|own| own == saved.encoding);
    match saved.iter().find(|saved| !is_known(saved)) {
        None => Ok(()),
        Some(unknown) => Err(HypervisorError::Register { name: name(unknown.encoding) }),
    }
}

/// A size or an alignment that the framework demands.
fn measure(
    call: &'static str,
    function: unsafe extern "C" fn(*mut usize) -> i32,
) -> Result<u64, HypervisorError> {
    let mut value = 0_usize;
    // SAFETY: the functions of this type write one value, for which there is room.
    check(call, unsafe { function(&raw mut value) })?;
    Ok(value.max(1) as u64)
}

#[cfg(test)]
mod tests;
