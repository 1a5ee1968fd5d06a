//! Puts together the state of a captured machine's processors, interrupt controller and counter.

use supermachine_formats::snapshot::arch::ArchState;
use supermachine_formats::snapshot::arch::aarch64::{Counter, Gic, Processor, State, Vcpu};

use super::gic::Lines;

/// A vCPU's state, as captured.
#[derive(Debug)]
pub(crate) struct SavedVcpu {
    /// Its registers. Those of the interrupt controller's CPU interface may be in
    /// [`SavedInterrupts`].
    pub(crate) state: Vcpu,
    /// The processor that it shows to the guest.
    pub(crate) shown: Processor,
    /// The virtual counter and its frequency in Hz.
    pub(crate) counter: (u64, u32),
}

/// What the hypervisor holds of the interrupt controllers.
#[derive(Debug)]
pub(crate) struct SavedInterrupts {
    /// Distributor and redistributors.
    pub(crate) gic: Gic,
    /// The CPU interface of each vCPU; empty if the vCPUs' own states have them.
    pub(crate) cpu_interfaces:
        Vec<Vec<supermachine_formats::snapshot::arch::aarch64::SystemRegister>>,
}

/// The guest's clock at a capture: the counter, which is part of a vCPU's own state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading;

/// The state of a captured machine. `processor` is what the guest requires of a host, and `time`
/// has the host's wall clock in nanoseconds since 1970.
pub(crate) fn captured_state(
    processor: Processor,
    vcpus: Vec<SavedVcpu>,
    interrupts: (&Lines, SavedInterrupts),
    time: (ClockReading, u64),
) -> ArchState {
    let (_, realtime_ns) = time;
    // All vCPUs count alike; the first is the one that sets the counter in a restore.
    let (value, frequency_hz) = vcpus.first().map_or((0, 0), |first| first.counter);
    let SavedInterrupts { gic, cpu_interfaces } = interrupts.1;
    let mut interfaces = cpu_interfaces.into_iter();
    let with_interface = |vcpu: SavedVcpu| match interfaces.next() {
        Some(cpu_interface) => Vcpu { cpu_interface, ..vcpu.state },
        None => vcpu.state,
    };
    ArchState::Aarch64(State {
        processor,
        vcpus: vcpus.into_iter().map(with_interface).collect(),
        gic,
        counter: Counter { value, frequency_hz, realtime_ns },
    })
}

/// The state of a machine of this architecture.
pub(crate) fn state_of(state: &ArchState) -> Option<&State> {
    state.aarch64()
}

/// The clock of a machine that is restored.
pub(crate) fn clock(state: &State) -> Counter {
    state.counter.clone()
}
