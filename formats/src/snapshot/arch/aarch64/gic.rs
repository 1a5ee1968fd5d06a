//! The interrupt controller, a GICv3 without message-signalled interrupts.
//!
//! Its state is the registers that the architecture names, or an opaque state for a hypervisor that
//! gives no access to them. The CPU interfaces are part of the vCPUs.

use alloc::vec::Vec;

use super::vcpu::{AFFINITY, Vcpu};
use crate::codec::{DecodeError, Put, Reader};
use crate::record::{Field, record};
use crate::snapshot::machine::HypervisorFamily;

/// The most registers of a distributor or redistributor.
pub const MAX_REGISTERS: usize = 4096;
/// The most bytes of an opaque state.
pub const MAX_OPAQUE_SIZE: usize = 1 << 20;
/// The least and the most interrupts of a distributor; multiples of the least.
pub const INTERRUPTS: (u16, u16) = (32, 992);
/// Bytes of a distributor's register frame.
pub const DISTRIBUTOR_SIZE: u32 = 0x1_0000;
/// Bytes of a redistributor's two register frames.
pub const REDISTRIBUTOR_SIZE: u32 = 0x2_0000;

const REGISTERS: u8 = 0;
const OPAQUE: u8 = 1;

/// The state of the interrupt controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gic {
    /// Its registers.
    Registers(GicRegisters),
    /// What one family of hypervisors saves and restores as a whole.
    Opaque {
        /// The family.
        family: HypervisorFamily,
        /// The state.
        state: Vec<u8>,
    },
}

record! {
    /// The registers of distributor and redistributors. A register that is not listed has its value
    /// after reset.
    pub struct GicRegisters {
        /// The number of interrupts, a multiple of 32. The first 32 are each vCPU's own.
        interrupts: u16,
        /// The distributor's registers, by rising offset.
        distributor: Vec<GicRegister>,
        /// The input lines of shared interrupts, 32 in each word, from interrupt 32 upwards; empty
        /// if all are low.
        lines: Vec<u32>,
        /// One for each vCPU, in their order; empty in a machine that was never run.
        redistributors: Vec<Redistributor>,
    }

    /// One vCPU's part.
    pub struct Redistributor {
        /// The affinity fields of the vCPU's MPIDR_EL1.
        mpidr: u64,
        /// Its registers, by rising offset.
        registers: Vec<GicRegister>,
        /// The input lines of the vCPU's own interrupts, 0 to 31.
        lines: u32,
    }
}

record! {
    /// A register of 32 bits, or half of one of 64.
    #[derive(Copy)]
    pub struct GicRegister {
        /// Its offset in the frame, a multiple of 4.
        offset: u32,
        /// Its value.
        value: u32,
    }
}

impl Field for Gic {
    const MIN_SIZE: usize = 1 + 1 + 4;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Registers(registers) => {
                out.put_u8(REGISTERS);
                registers.put(out);
            }
            Self::Opaque { family, state } => {
                out.put_u8(OPAQUE);
                family.put(out);
                out.put_byte_string(state);
            }
        }
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8(name)? {
            REGISTERS => Field::read(name, reader).map(Self::Registers),
            OPAQUE => Ok(Self::Opaque {
                family: Field::read("family", reader)?,
                state: reader.byte_string("state", MAX_OPAQUE_SIZE)?.to_vec(),
            }),
            form => Err(reader.illegal("form", form.into())),
        }
    }
}

impl Gic {
    /// The controller of a machine that was never run.
    #[must_use]
    pub fn reset(interrupts: u16) -> Self {
        Self::Registers(GicRegisters {
            interrupts,
            distributor: Vec::new(),
            lines: Vec::new(),
            redistributors: Vec::new(),
        })
    }

    /// Checks the state against the vCPUs and the hypervisor. The error is what the section has.
    pub(super) fn validate(
        &self,
        vcpus: &[Vcpu],
        hypervisor: HypervisorFamily,
    ) -> Result<(), &'static str> {
        match self {
            Self::Registers(registers) => registers.validate(vcpus),
            Self::Opaque { family, .. } if *family == hypervisor => Ok(()),
            Self::Opaque { .. } => Err("an opaque state of another hypervisor than the header"),
        }
    }
}

impl GicRegisters {
    fn validate(&self, vcpus: &[Vcpu]) -> Result<(), &'static str> {
        let (least, most) = INTERRUPTS;
        if !(least..=most).contains(&self.interrupts) || !self.interrupts.is_multiple_of(least) {
            return Err("a number of interrupts that is not a multiple of 32 up to 992");
        }
        let shared = usize::from(self.interrupts / least).saturating_sub(1);
        if !self.lines.is_empty() && self.lines.len() != shared {
            return Err("another number of lines than interrupts");
        }
        if !rises(&self.distributor, DISTRIBUTOR_SIZE) {
            return Err("registers of the distributor out of order or place");
        }
        let expected = vcpus.iter().map(|vcpu| vcpu.mpidr & AFFINITY);
        let found = self.redistributors.iter().map(|redistributor| redistributor.mpidr);
        if !self.redistributors.is_empty() && !found.eq(expected) {
            return Err("other redistributors than vCPUs");
        }
        let in_order = |one: &Redistributor| rises(&one.registers, REDISTRIBUTOR_SIZE);
        if !self.redistributors.iter().all(in_order) {
            return Err("registers of a redistributor out of order or place");
        }
        Ok(())
    }
}

/// Whether registers rise by offset, are few enough, and lie within the frame.
fn rises(registers: &[GicRegister], size: u32) -> bool {
    registers.len() <= MAX_REGISTERS
        && registers
            .iter()
            .all(|register| register.offset.is_multiple_of(4) && register.offset < size)
        && registers.is_sorted_by(|one, two| one.offset < two.offset)
}
