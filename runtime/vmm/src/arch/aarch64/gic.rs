//! The interrupt controller: a GICv3 that the hypervisor emulates.
//!
//! Devices have edge-triggered lines into it. Its registers are lists here: which of them make up
//! its state, and in which order they are written. That order matters, because some registers set
//! bits and others clear the same bits, and since reading their state is all that a hypervisor
//! offers, this module knows no hypervisor.

use std::fmt::Debug;
use std::sync::Arc;

use supermachine_formats::snapshot::arch::aarch64::{GicRegister, State, encoding};

use super::layout::FIRST_SHARED;
use crate::devices::{Bus, Line};

/// Delivers the edges of devices to the interrupt controller.
pub(crate) trait InterruptSink: Debug + Send + Sync {
    /// Sends an edge of the shared interrupt with this number.
    fn deliver(&self, interrupt: u32);
}

/// The devices' lines into the controller.
#[derive(Debug)]
pub(crate) struct Lines {
    sink: Arc<dyn InterruptSink>,
}

impl Lines {
    /// The lines of a restored machine. They have no state: an edge is in the controller at once.
    pub(crate) fn restore(sink: Arc<dyn InterruptSink>, _: &State) -> Arc<Self> {
        Arc::new(Self { sink })
    }

    /// The same as after a restore.
    pub(crate) fn reset(&self, _: &State) {}

    /// The hypervisor answers at the controller's addresses, so nothing is on the bus.
    pub(crate) fn place(self: &Arc<Self>, _: &mut Bus) {}

    /// The interrupt line with this number.
    pub(crate) fn line(self: &Arc<Self>, line: u8) -> Arc<dyn Line> {
        Arc::new(SharedLine { lines: Arc::clone(self), interrupt: FIRST_SHARED + u32::from(line) })
    }
}

/// One line into the controller.
#[derive(Debug)]
struct SharedLine {
    lines: Arc<Lines>,
    interrupt: u32,
}

impl Line for SharedLine {
    fn raise(&self) {
        self.lines.sink.deliver(self.interrupt);
    }
}

/// A register, or an array of them with one field for each interrupt.
#[derive(Debug, Clone, Copy)]
struct Row {
    offset: u32,
    /// Bits for each interrupt; 0 for a register that is none of the interrupts'.
    bits: u32,
    write: Write,
}

/// How a row is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// By its value.
    Value,
    /// By its value, after all ones to the register that clears what this one sets.
    After { clear: u32 },
}

const fn row(offset: u32, bits: u32) -> Row {
    Row { offset, bits, write: Write::Value }
}

const fn set(offset: u32, clear: u32) -> Row {
    Row { offset, bits: 1, write: Write::After { clear } }
}

const CTLR: u32 = 0;
const STATUSR: u32 = 0x10;
const IGROUPR: u32 = 0x80;
const ISENABLER: u32 = 0x100;
const ICENABLER: u32 = 0x180;
const ISPENDR: u32 = 0x200;
const ISACTIVER: u32 = 0x300;
const ICACTIVER: u32 = 0x380;
const IPRIORITYR: u32 = 0x400;
const ICFGR: u32 = 0xc00;
const IROUTER: u32 = 0x6000;
const WAKER: u32 = 0x14;
/// The second frame of a redistributor, with the vCPU's own interrupts.
const SGI: u32 = 0x1_0000;

/// The distributor in the order of a restore. Interrupts come before the switch that delivers them.
/// Pending bits are exact when software outside the guest writes them.
const DISTRIBUTOR: &[Row] = &[
    row(STATUSR, 0),
    row(IGROUPR, 1),
    row(ICFGR, 2),
    row(IPRIORITYR, 8),
    row(IROUTER, 64),
    set(ISENABLER, ICENABLER),
    row(ISPENDR, 1),
    set(ISACTIVER, ICACTIVER),
    row(CTLR, 0),
];

/// A redistributor, in the order of a restore.
const REDISTRIBUTOR: &[Row] = &[
    row(STATUSR, 0),
    row(WAKER, 0),
    row(SGI + IGROUPR, 1),
    row(SGI + ICFGR, 2),
    row(SGI + IPRIORITYR, 8),
    set(SGI + ISENABLER, SGI + ICENABLER),
    row(SGI + ISPENDR, 1),
    set(SGI + ISACTIVER, SGI + ICACTIVER),
    row(CTLR, 0),
];

/// Interrupts of each vCPU's own.
const PRIVATE: u32 = 32;

/// The words of a row for the interrupts from `first` to below `end`.
fn words(row: &Row, first: u32, end: u32) -> impl Iterator<Item = u32> + use<> {
    let (from, to) = match row.bits {
        0 => (0, 1),
        bits => (first * bits / 32, end * bits / 32),
    };
    let offset = row.offset;
    (from..to).map(move |word| offset + word * 4)
}

/// The offsets of the distributor's registers, for a controller with this many interrupts.
pub(crate) fn distributor(interrupts: u32) -> Vec<u32> {
    rising(DISTRIBUTOR, PRIVATE, interrupts)
}

/// The offsets of a redistributor's registers.
pub(crate) fn redistributor() -> Vec<u32> {
    rising(REDISTRIBUTOR, 0, PRIVATE)
}

fn rising(rows: &[Row], first: u32, end: u32) -> Vec<u32> {
    let mut offsets: Vec<u32> = rows.iter().flat_map(|row| words(row, first, end)).collect();
    offsets.sort_unstable();
    offsets
}

/// The writes that restore a distributor, in order. Registers that are not saved are cleared.
pub(crate) fn distributor_writes(interrupts: u32, saved: &[GicRegister]) -> Vec<GicRegister> {
    writes(DISTRIBUTOR, (PRIVATE, interrupts), saved)
}

/// The writes that restore a redistributor, in order.
pub(crate) fn redistributor_writes(saved: &[GicRegister]) -> Vec<GicRegister> {
    writes(REDISTRIBUTOR, (0, PRIVATE), saved)
}

fn writes(rows: &[Row], (first, end): (u32, u32), saved: &[GicRegister]) -> Vec<GicRegister> {
    let mut out = Vec::new();
    let mut write = |offset, value| out.push(GicRegister { offset, value });
    for row in rows {
        for offset in words(row, first, end) {
            if let Write::After { clear } = row.write {
                write(clear + (offset - row.offset), u32::MAX);
            }
            let found = saved.iter().find(|register| register.offset == offset);
            if let Some(register) = found {
                write(offset, register.value);
            }
        }
    }
    out
}

/// The registers of a CPU interface in the order of a restore: access and control first, the group
/// enables last. Registers of priorities exist as far as the processor has bits of them.
pub(crate) const CPU_INTERFACE: [u16; 15] = [
    encoding(3, 0, 12, 12, 5), // ICC_SRE_EL1
    encoding(3, 0, 12, 12, 4), // ICC_CTLR_EL1
    encoding(3, 0, 4, 6, 0),   // ICC_PMR_EL1
    encoding(3, 0, 12, 8, 3),  // ICC_BPR0_EL1
    encoding(3, 0, 12, 12, 3), // ICC_BPR1_EL1
    encoding(3, 0, 12, 8, 4),  // ICC_AP0R0_EL1
    encoding(3, 0, 12, 8, 5),
    encoding(3, 0, 12, 8, 6),
    encoding(3, 0, 12, 8, 7),
    encoding(3, 0, 12, 9, 0), // ICC_AP1R0_EL1
    encoding(3, 0, 12, 9, 1),
    encoding(3, 0, 12, 9, 2),
    encoding(3, 0, 12, 9, 3),
    encoding(3, 0, 12, 12, 6), // ICC_IGRPEN0_EL1
    encoding(3, 0, 12, 12, 7), // ICC_IGRPEN1_EL1
];

/// ICC_CTLR_EL1, whose PRIbits say how many of the next two kinds there are.
pub(crate) const ICC_CTLR: u16 = CPU_INTERFACE[1];

/// Whether a processor with this ICC_CTLR_EL1 has a register of [`CPU_INTERFACE`].
pub(crate) fn has_cpu_register(register: u16, control: u64) -> bool {
    let bits = (control >> 8 & 7) + 1;
    // One register for each 32 of the preemption levels.
    let registers = 1_u64 << bits.saturating_sub(5).min(2);
    let active = [encoding(3, 0, 12, 8, 4), encoding(3, 0, 12, 9, 0)];
    let index = active.iter().find_map(|first| register.checked_sub(*first).filter(|n| *n < 4));
    index.is_none_or(|index| u64::from(index) < registers)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Sent(Mutex<Vec<u32>>);

    impl InterruptSink for Sent {
        fn deliver(&self, interrupt: u32) {
            self.0.lock().unwrap().push(interrupt);
        }
    }

    #[test]
    fn line_raises_its_shared_interrupt() {
        let sent = Arc::new(Sent::default());
        let lines = Arc::new(Lines { sink: sent.clone() });
        lines.line(0).raise();
        lines.line(16).raise();
        assert_eq!(*sent.0.lock().unwrap(), [32, 48]);
    }

    #[test]
    fn registers_rise_and_leave_out_private_interrupts_of_the_distributor() {
        let offsets = distributor(64);
        assert!(offsets.is_sorted_by(|one, two| one < two));
        // Control, status, one word of each bit, two of configuration, eight of priorities, a
        // pair for each route.
        assert_eq!(offsets.len(), 2 + 4 + 2 + 8 + 64);
        assert!(offsets.contains(&0x104) && !offsets.contains(&0x100));
        assert!(offsets.contains(&0x6100) && !offsets.contains(&0x60fc));
        let own = redistributor();
        assert!(own.is_sorted_by(|one, two| one < two));
        assert_eq!(own.len(), 3 + 4 + 2 + 8);
        assert!(own.contains(&0x1_0100) && !own.contains(&0x1_0104));
    }

    #[test]
    fn restore_clears_what_it_does_not_set_and_enables_delivery_last() {
        let register = |offset, value| GicRegister { offset, value };
        let saved = [register(0, 0x12), register(0x104, 6)];
        let written = distributor_writes(64, &saved);
        let expected = [
            register(0x184, u32::MAX),
            register(0x104, 6),
            register(0x384, u32::MAX),
            register(0, 0x12),
        ];
        assert_eq!(written, expected);
    }

    #[test]
    fn every_saved_register_is_written_back() {
        let all = |offsets: Vec<u32>| -> Vec<GicRegister> {
            offsets.into_iter().map(|offset| GicRegister { offset, value: offset }).collect()
        };
        for (saved, written) in [
            (all(distributor(64)), distributor_writes(64, &all(distributor(64)))),
            (all(redistributor()), redistributor_writes(&all(redistributor()))),
        ] {
            assert!(saved.iter().all(|register| written.contains(register)));
            assert_eq!(written.last().map(|register| register.offset), Some(CTLR));
        }
    }

    #[test]
    fn priorities_decide_how_many_active_registers_there_are() {
        let count = |bits: u64| {
            let control = (bits - 1) << 8;
            CPU_INTERFACE.iter().filter(|register| has_cpu_register(**register, control)).count()
        };
        assert_eq!([5, 6, 7].map(count), [9, 11, 15]);
    }
}
