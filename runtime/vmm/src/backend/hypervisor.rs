//! What a backend implements.

use std::fmt::Debug;
use std::sync::Arc;

use vm_memory::MmapRegion;

use super::error::HypervisorError;
use crate::arch::{
    Clock, ClockReading, InterruptSink, Mismatch, Processor, SavedInterrupts, SavedVcpu, State,
    VcpuState,
};

/// A virtual machine without devices.
pub(crate) trait Vm: InterruptSink {
    /// Maps `region` into the guest at `guest_address`. `index` names the window; each is used
    /// once. The backend keeps the region alive for as long as the guest can reach it.
    fn map(
        &self,
        index: u32,
        guest_address: u64,
        region: Arc<MmapRegion>,
        access: Access,
    ) -> Result<(), HypervisorError>;

    /// Refuses a state whose guest uses features that this host's processor lacks.
    fn check(&self, state: &State) -> Result<(), Mismatch>;

    /// Gives the vCPUs of a machine that was never run what their baseline names.
    fn complete(&self, state: &mut State) -> Result<(), HypervisorError>;

    /// What a captured machine that was restored from `origin` requires of a processor.
    fn required(&self, origin: &Processor, vcpus: &[SavedVcpu]) -> Processor;

    /// Creates the vCPU with this index. Called on the thread that will run it.
    fn create_vcpu(&self, index: u16) -> Result<Box<dyn Vcpu>, HypervisorError>;

    /// Restores the interrupt controllers as far as the hypervisor holds them and they are not
    /// part of a vCPU's own state. Called while every vCPU exists and none runs.
    fn restore_interrupts(&self, state: &State) -> Result<(), HypervisorError>;

    /// What [`Vm::restore_interrupts`] restores. Called while no vCPU runs.
    fn save_interrupts(&self) -> Result<SavedInterrupts, HypervisorError>;

    /// The guest's clock, as far as it is not part of a vCPU's own state.
    fn read_clock(&self) -> Result<ClockReading, HypervisorError>;

    /// Sets the guest's clock, as far as restoring the vCPUs does not.
    fn set_clock(&self, clock: &Clock) -> Result<(), HypervisorError>;
}

/// What the guest may do with mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// One virtual processor. It stays on the thread that created it.
pub(crate) trait Vcpu: Debug {
    /// Runs the guest until it needs the machine, or until it is kicked.
    fn run(&mut self) -> Result<Exit<'_>, HypervisorError>;

    /// Completes the last exit, then returns the processor's state.
    fn save(&mut self) -> Result<SavedVcpu, HypervisorError>;

    /// Restores a saved state into a new processor, with the rates of a machine's `clock`.
    fn restore(&mut self, state: &VcpuState, clock: &Clock) -> Result<(), HypervisorError>;

    /// Restores a saved state into a processor that has run. Everything that a guest can change
    /// is overwritten, and whatever was in progress is completed or dropped. A VM's processors
    /// are reset in two rounds: the one with `leads` alone, which detaches its clock from the
    /// former time, then the others, which join it.
    ///
    /// # Errors
    /// [`HypervisorError::PartialState`] if something of the former guest would stay.
    fn reset(&mut self, state: &VcpuState, leads: bool) -> Result<(), HypervisorError>;

    /// Informs the guest's kernel that it was paused, so that it does not blame its processors
    /// for the time that passed. A no-op for guests that have no such interface.
    fn note_pause(&mut self) {}

    /// Maps a range of guest memory ahead of its use, to save an exit for each page, and makes the
    /// host's pages present. Returns whether it worked; a failure costs time only.
    fn pre_fault(&mut self, guest_address: u64, size: u64) -> bool;

    /// A handle that makes [`Vcpu::run`] return, for other threads. Called on the vCPU's thread.
    fn kicker(&self) -> Box<dyn Kick>;
}

/// Makes a vCPU's [`Vcpu::run`] return [`Exit::Kicked`], now or on its next call.
pub(crate) trait Kick: Debug + Send + Sync {
    fn kick(&self);
}

/// Why a vCPU stopped running.
#[derive(Debug)]
pub(crate) enum Exit<'a> {
    /// Another thread kicked it.
    Kicked,
    /// The guest reads a device; the answer goes into `data`. The address is one on the bus.
    Read { address: u64, data: &'a mut [u8] },
    /// The guest writes a device. The address is one on the bus.
    Write { address: u64, data: &'a [u8] },
    /// The guest shut down or reset itself.
    Shutdown,
    /// The hypervisor cannot continue.
    Failed { reason: &'static str, code: u64 },
}
