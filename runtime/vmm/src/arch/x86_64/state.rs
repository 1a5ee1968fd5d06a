//! Puts together the state of a captured machine's processors, interrupt controller and clock.

use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::snapshot::arch::x86_64::baseline::Processor;
use supermachine_formats::snapshot::arch::x86_64::{
    Clock, IOAPIC_PINS, Ioapic as IoapicState, State, Vcpu,
};

use super::ioapic::Ioapic;

/// A vCPU's state, as captured.
#[derive(Debug)]
pub(crate) struct SavedVcpu {
    /// Its registers.
    pub(crate) state: Vcpu,
    /// The rate of its time-stamp counter in kHz.
    pub(crate) tsc_khz: u32,
}

/// The guest's clock at a capture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    /// The paravirtual clock, in nanoseconds.
    pub(crate) monotonic_ns: u64,
}

/// What the hypervisor holds of the interrupt controllers: nothing but the local ones, which are
/// part of the vCPUs.
#[derive(Debug)]
pub(crate) struct SavedInterrupts;

/// The state of a captured machine. `processor` is what the guest requires of a host, and `time`
/// the guest's clock and the host's wall clock in nanoseconds since 1970.
pub(crate) fn captured_state(
    processor: Processor,
    vcpus: Vec<SavedVcpu>,
    interrupts: (&Ioapic, SavedInterrupts),
    time: (ClockReading, u64),
) -> ArchState {
    let (ClockReading { monotonic_ns }, realtime_ns) = time;
    let tsc_khz = vcpus.first().map_or(0, |first| first.tsc_khz);
    ArchState::X86_64(State {
        processor,
        vcpus: vcpus.into_iter().map(|vcpu| vcpu.state).collect(),
        ioapic: interrupts.0.state(),
        clock: Clock { monotonic_ns, realtime_ns, tsc_khz },
    })
}

/// The state of a machine of this architecture.
pub(crate) fn state_of(state: &ArchState) -> Option<&State> {
    state.x86_64()
}

/// The clock of a machine that is restored.
pub(crate) fn clock(state: &State) -> Clock {
    state.clock.clone()
}

/// The interrupt controller of a machine that was never run: every pin is masked.
#[must_use]
pub fn reset_ioapic() -> IoapicState {
    IoapicState { id: 0, selected: 0, pins: [1 << 16; IOAPIC_PINS] }
}
