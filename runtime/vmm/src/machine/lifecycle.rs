//! A machine while it exists: run, pause, streams, and how the guest stopped.
//!
//! Locks: a caller that commands the vCPUs holds `turn`, so that one capture or reset happens at a
//! time and nothing runs the guest meanwhile. It comes before all others. `clock` is held while the
//! time is sent to the guest, so that no later request overtakes it.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::wire;

use super::board::Board;
use super::exit_state::ExitWatch;
use super::vcpus::Vcpus;
use super::wall_clock::{ClockWatch, Moment, realtime_ns};
use crate::backend::Vm;
use crate::devices::Streams;
use crate::error::{GuestFailure, MachineError};
use crate::memory::{MemoryFiles, Pager, Ram, SparePages};

/// A running or paused guest.
pub struct Machine {
    // Dropped in this order: first the guest stops, then what it used goes away.
    pub(super) vcpus: Vcpus,
    pub(super) board: Arc<Board>,
    pub(super) streams: Streams,
    pub(super) vm: Arc<dyn Vm>,
    /// Stops after the guest, which waits for it, and before the memory that it fills.
    pub(super) _pager: Option<Pager>,
    pub(super) ram: Arc<Ram>,
    /// The files that memory started as; `None` if it arrives in chunks.
    pub(super) memory_files: Option<MemoryFiles>,
    /// A second mapping of the original memory, once the machine was reset.
    pub(super) pristine: OnceLock<Ram>,
    /// Pages that stay present when memory is rolled back.
    pub(super) spare: Mutex<SparePages>,
    pub(super) origin: Arc<Snapshot>,
    /// Held while commanding the vCPUs.
    pub(super) turn: Mutex<()>,
    /// When the guest was last told the time. Held while a message with the time is sent.
    pub(super) clock: Mutex<ClockWatch>,
}

impl fmt::Debug for Machine {
    /// Leaves out the state that the machine started from, which is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("vcpus", &self.vcpus).finish_non_exhaustive()
    }
}

impl Machine {
    /// Runs the guest. Waits for a capture to finish.
    pub fn run(&self) {
        let _turn = self.turn();
        self.vcpus.run();
    }

    /// Pauses the guest until [`Machine::resume`]: on return no vCPU runs, and none will. Waits for
    /// a capture to finish. A no-op for a paused guest.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has stopped by itself.
    pub fn pause(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        self.vcpus.pause();
        self.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Resumes a paused guest, which first receives the time of day. Waits for a capture to finish.
    /// A no-op for a running guest.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has stopped by itself, and [`MachineError::Stream`] if
    /// its agent has closed the control stream.
    pub fn resume(&self) -> Result<(), MachineError> {
        let _turn = self.turn();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        if !self.vcpus.is_to_run() {
            self.send_control(&wire::Control::Clock { realtime_ns: realtime_ns() })?;
            self.vcpus.run_again();
        }
        Ok(())
    }

    /// Sends a message to the agent on the control stream of a restored machine.
    ///
    /// # Errors
    /// The snapshot was taken before the agent opened the stream.
    pub fn send_control(&self, message: &wire::Control) -> Result<(), MachineError> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        // All of them carry the time.
        clock.tell(Moment::now());
        self.send(message)
    }

    fn send(&self, message: &wire::Control) -> Result<(), MachineError> {
        let frame = wire::Message::to_frame(message);
        self.streams.send_control(&frame).map_err(|source| MachineError::Stream { source })
    }

    /// The host's end of the agent's control stream. It can be taken once; on a machine that
    /// boots, before it runs.
    ///
    /// # Errors
    /// It was taken before.
    pub fn control(&self) -> Result<UnixStream, MachineError> {
        self.streams.control().map_err(|source| MachineError::Stream { source })
    }

    /// Tells the guest the time if the host has slept, or its wall clock was stepped, since it was last
    /// told.
    fn correct_clock(&self) {
        let now = Moment::now();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.has_stepped(now) {
            clock.tell(now);
            // Without a control stream the machine has no agent to tell.
            let _ = self.send(&wire::Control::Clock { realtime_ns: now.realtime_ns });
        }
    }

    /// Opens a stream to a port of the guest, and sends `first` on it. The guest's clock is right
    /// before it reads that.
    ///
    /// # Errors
    /// Too many streams are open, or the host has no descriptors left.
    pub fn connect(&self, port: u32, first: &[u8]) -> Result<UnixStream, MachineError> {
        self.correct_clock();
        let stream = self.streams.connect(port, first);
        if self.failure().is_some() {
            // The guest stopped before the stream was open, so nothing else would close it.
            self.streams.hang_up();
        }
        stream.map_err(|source| MachineError::Stream { source })
    }

    /// A handle that opens streams. It also works while the machine is dropped.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }

    /// The tail of the guest kernel's messages.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.board.console().tail()
    }

    /// How the guest stopped by itself; `None` if it did not.
    #[must_use]
    pub fn failure(&self) -> Option<GuestFailure> {
        self.vcpus.failure()
    }

    /// Watches how the guest stops, also after the machine is dropped.
    #[must_use]
    pub fn exit_watch(&self) -> ExitWatch {
        ExitWatch::new(Arc::clone(self.vcpus.exit_state()), self.board.console().clone())
    }

    /// The processor time that the guest has used on this host.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.vcpus.cpu_time()
    }

    /// The number of exits from the guest to this host.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.vcpus.exits()
    }

    /// The files that memory started as; `None` if it arrives in chunks.
    #[must_use]
    pub fn memory_files(&self) -> Option<&MemoryFiles> {
        self.memory_files.as_ref()
    }

    /// The state that the machine was restored from.
    #[must_use]
    pub fn origin(&self) -> &Snapshot {
        &self.origin
    }

    #[cfg(test)]
    pub(super) fn ram(&self) -> &Ram {
        &self.ram
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
