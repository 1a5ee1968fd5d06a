//! Why a vCPU left the guest: the framework's reasons and the processor's syndromes, decoded.
//!
//! Pure functions; what follows from an exit is in [`vcpu`](super::vcpu).

use supermachine_formats::snapshot::arch::aarch64::encoding;

use super::cpu::RawExit;

/// What a vCPU left the guest for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Another thread asked for it.
    Canceled,
    /// The virtual timer fired, and is masked now.
    Timer,
    /// A load or store where no memory is.
    Access(Access),
    /// The guest maintains caches at an address without memory, which has no effect.
    CacheMaintenance,
    /// WFI: the guest has nothing to do before the next interrupt.
    Wfi,
    /// WFE: the guest waits for another processor.
    Wfe,
    /// A call of firmware, by HVC or SMC.
    Call(Call),
    /// An access to a system register that the hypervisor leaves to this program.
    Register(RegisterAccess),
    /// The guest cannot continue.
    Failed { reason: &'static str, code: u64 },
}

/// A load or store of one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    /// The guest's physical address.
    pub(super) address: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub(super) width: usize,
    /// The general register; 31 reads as zero, and loses what is loaded.
    pub(super) register: u8,
    pub(super) is_write: bool,
    /// A loaded value's sign fills the register.
    pub(super) is_signed: bool,
    /// The register has 64 bits, not 32.
    pub(super) is_wide: bool,
}

impl Access {
    /// What a load leaves in the register.
    pub(super) fn loaded(&self, data: [u8; 8]) -> u64 {
        let unused = 64 - 8 * self.width as u32;
        let raised = u64::from_le_bytes(data) << unused;
        let value = if self.is_signed {
            (raised.cast_signed() >> unused).cast_unsigned()
        } else {
            raised >> unused
        };
        if self.is_wide { value } else { value & u64::from(u32::MAX) }
    }
}

/// A call of firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// The instruction's operand; 0 by convention.
    pub(super) immediate: u16,
    /// The program counter is still at the instruction.
    pub(super) is_before: bool,
}

/// A move between a general register and a system register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegisterAccess {
    /// The system register.
    pub(super) encoding: u16,
    /// The general register; 31 reads as zero, and loses what is moved there.
    pub(super) register: u8,
    pub(super) is_read: bool,
}

const CANCELED: u32 = 0;
const EXCEPTION: u32 = 1;
const TIMER: u32 = 2;

/// Decodes an exit.
pub(super) fn decode(exit: &RawExit) -> Event {
    match exit.reason {
        CANCELED => Event::Canceled,
        EXCEPTION => exception(exit),
        TIMER => Event::Timer,
        reason => Event::Failed { reason: "unknown exit", code: reason.into() },
    }
}

fn exception(exit: &RawExit) -> Event {
    let syndrome = exit.syndrome;
    let immediate = syndrome as u16;
    match syndrome >> 26 & 0x3f {
        0x01 if syndrome & 1 == 0 => Event::Wfi,
        0x01 => Event::Wfe,
        0x16 => Event::Call(Call { immediate, is_before: false }),
        0x17 => Event::Call(Call { immediate, is_before: true }),
        0x18 => Event::Register(register_access(syndrome)),
        0x20 => Event::Failed {
            reason: "instruction at an address without memory",
            code: exit.physical_address,
        },
        0x24 => data_abort(exit),
        _ => Event::Failed { reason: "unknown exception", code: syndrome },
    }
}

fn data_abort(exit: &RawExit) -> Event {
    let syndrome = exit.syndrome;
    let bit = |number: u32| syndrome >> number & 1 == 1;
    let failed = |reason| Event::Failed { reason, code: syndrome };
    if bit(9) {
        return failed("memory error of the host");
    }
    if bit(7) {
        return failed("page table at an address without memory");
    }
    // Faults of translation, access flag and permission: there is no memory, or none to write.
    if !(0b00_0100..=0b00_1111).contains(&(syndrome & 0x3f)) {
        return failed("unknown fault of an access");
    }
    if bit(8) {
        return Event::CacheMaintenance;
    }
    if !bit(24) {
        return failed("access to a device that is not a load or store of one register");
    }
    Event::Access(Access {
        address: exit.physical_address,
        width: 1 << (syndrome >> 22 & 3),
        register: (syndrome >> 16 & 0x1f) as u8,
        is_write: bit(6),
        is_signed: bit(21),
        is_wide: bit(15),
    })
}

fn register_access(syndrome: u64) -> RegisterAccess {
    let field = |shift: u32, mask: u64| (syndrome >> shift & mask) as u16;
    RegisterAccess {
        encoding: encoding(field(20, 3), field(14, 7), field(10, 15), field(1, 15), field(17, 7)),
        register: (syndrome >> 5 & 0x1f) as u8,
        is_read: syndrome & 1 == 1,
    }
}

#[cfg(test)]
mod tests;
