//! Puts together the state of a captured machine's processors, interrupt controller and clock.

use supermachine_formats::snapshot::arch::x86_64::{Clock, IOAPIC_PINS, Ioapic as IoapicState};
use supermachine_formats::snapshot::arch::{ArchState, Processor, VcpuState};

use super::ioapic::Ioapic;

/// A vCPU's state, as captured.
#[derive(Debug)]
pub(crate) struct SavedVcpu {
    /// Its registers.
    pub(crate) state: VcpuState,
    /// The rate of its time-stamp counter in kHz.
    pub(crate) tsc_khz: u32,
}

/// The time at which a machine was captured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    /// The guest's paravirtual clock, in nanoseconds.
    pub(crate) monotonic_ns: u64,
    /// The host's wall clock, in nanoseconds since 1970.
    pub(crate) realtime_ns: u64,
}

/// The state of a captured machine. `processor` is what the guest requires of a host.
pub(crate) fn captured_state(
    processor: Processor,
    vcpus: Vec<SavedVcpu>,
    interrupts: &Ioapic,
    time: ClockReading,
) -> ArchState {
    let ClockReading { monotonic_ns, realtime_ns } = time;
    let tsc_khz = vcpus.first().map_or(0, |first| first.tsc_khz);
    ArchState {
        processor,
        vcpus: vcpus.into_iter().map(|vcpu| vcpu.state).collect(),
        ioapic: interrupts.state(),
        clock: Clock { monotonic_ns, realtime_ns, tsc_khz },
    }
}

/// The clock of a machine that is restored.
pub(crate) fn clock(state: &ArchState) -> Clock {
    state.clock.clone()
}

/// The guest's paravirtual clock at the capture, in nanoseconds.
pub(crate) fn monotonic_ns(state: &ArchState) -> u64 {
    state.clock.monotonic_ns
}

/// The interrupt controller of a machine that was never run: every pin is masked.
#[must_use]
pub fn reset_ioapic() -> IoapicState {
    IoapicState { id: 0, selected: 0, pins: [1 << 16; IOAPIC_PINS] }
}
