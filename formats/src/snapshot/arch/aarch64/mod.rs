//! The state of an arm64 machine's vCPUs, interrupt controller and counter.
//!
//! Registers have the widths, meanings and encodings of the architecture's manuals; no hypervisor's
//! structure is used. This module checks form, counts and identity only: the hypervisor refuses a
//! value that no processor accepts.

pub mod gic;
pub mod processor;
#[cfg(test)]
pub(in crate::snapshot) mod tests;
mod vcpu;

use alloc::vec::Vec;

pub use gic::{Gic, GicRegister, GicRegisters, Redistributor};
pub use processor::Processor;
pub use vcpu::{
    AFFINITY, CoreRegisters, Events, GENERAL_REGISTERS, MAX_SYSTEM_REGISTERS, Power,
    SIMD_REGISTERS, SimdRegisters, SystemRegister, Timer, Timers, Vcpu, encoding,
};

use self::vcpu::rises;
use crate::record::record;
use crate::snapshot::container::{Builder, Container, Section, SnapshotError, inconsistent};
use crate::snapshot::machine::{HypervisorFamily, MAX_VCPUS};

/// The state of an arm64 machine that is neither memory nor device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the snapshot requires of the host's processor.
    pub processor: Processor,
    /// The vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The counter.
    pub counter: Counter,
}

impl State {
    /// Adds this architecture's sections to a state file.
    pub(super) fn encode(&self, file: &mut Builder) {
        file.add(Section::ArmVcpus, &self.vcpus);
        file.add(Section::Gic, &self.gic);
        file.add(Section::Counter, &self.counter);
        file.add(Section::ArmProcessor, &self.processor);
    }

    /// Reads this architecture's sections from a state file.
    pub(super) fn decode(container: &Container<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            processor: container.section(Section::ArmProcessor)?,
            vcpus: container.list(Section::ArmVcpus, MAX_VCPUS)?,
            gic: container.section(Section::Gic)?,
            counter: container.section(Section::Counter)?,
        })
    }

    /// Checks the state against the machine's number of vCPUs and its hypervisor.
    pub(super) fn validate(
        &self,
        vcpus: u16,
        hypervisor: HypervisorFamily,
    ) -> Result<(), SnapshotError> {
        if vcpus == 0 || self.vcpus.len() != usize::from(vcpus) {
            return Err(inconsistent(
                Section::ArmVcpus,
                "another number of vCPUs than the machine",
            ));
        }
        let mut affinities: Vec<u64> = self.vcpus.iter().map(|vcpu| vcpu.mpidr).collect();
        if affinities.iter().any(|mpidr| mpidr & !AFFINITY != 0) {
            return Err(inconsistent(Section::ArmVcpus, "an MPIDR with bits that are no affinity"));
        }
        affinities.sort_unstable();
        affinities.dedup();
        if affinities.len() != self.vcpus.len() {
            return Err(inconsistent(Section::ArmVcpus, "two vCPUs with the same MPIDR"));
        }
        for vcpu in &self.vcpus {
            if [&vcpu.system, &vcpu.cpu_interface].iter().any(|list| !rises(list)) {
                return Err(inconsistent(Section::ArmVcpus, "system registers out of order"));
            }
        }
        if !self.processor.is_valid() {
            return Err(inconsistent(
                Section::ArmProcessor,
                "registers that identify no processor",
            ));
        }
        self.gic.validate(&self.vcpus, hypervisor).map_err(|what| inconsistent(Section::Gic, what))
    }
}

impl Counter {
    /// The counter of a machine that was never run.
    #[must_use]
    pub fn after_reset() -> Self {
        Self { value: 0, frequency_hz: 0, realtime_ns: 0 }
    }
}

/// The address of the first slot's registers in the guest. The agent names devices by it.
pub const SLOTS_START: u64 = 0x0a00_0000;
/// Bytes of a slot's registers.
pub const SLOT_SIZE: u64 = 0x1000;

record! {
    /// The machine's counter, which its timers and its clocks count.
    pub struct Counter {
        /// The virtual counter (CNTVCT_EL0) at capture.
        value: u64,
        /// The rate (CNTFRQ_EL0) in Hz. 0 means the host's own, in a snapshot that was never run.
        frequency_hz: u32,
        /// The host's wall clock at capture, in nanoseconds since 1970-01-01 UTC.
        realtime_ns: u64,
    }
}
