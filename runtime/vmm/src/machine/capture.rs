//! Reads the state and the written pages of a paused guest.
//!
//! Order: reserve room for the pages, stop the vCPUs, freeze the devices, read all states, copy the
//! pages. Everything that can be done before or after the stop is.

use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;

use supermachine_formats::snapshot::{Snapshot, WorkingSet};

use super::lifecycle::Machine;
use super::restore::arch_state;
use super::timings::Timings;
use super::vcpus::Vcpus;
use super::wall_clock::realtime_ns;
use crate::arch::{self, SavedVcpu};
use crate::backend;
use crate::error::MachineError;
use crate::memory::{self, DirtyPages, ReadRecorder};
use crate::os::PageMap;

/// How often to stop a running machine for a capture while its streams are busy each time.
const CAPTURE_ATTEMPTS: u32 = 20;
/// How long it runs between two attempts.
const CAPTURE_INTERVAL: Duration = Duration::from_millis(5);

/// A machine's state, read while it was paused.
#[derive(Debug)]
pub struct Captured {
    /// The state. Stage, parent, workload, stop and image command are those of the snapshot that the machine was
    /// restored from; the caller sets them.
    pub snapshot: Snapshot,
    /// Every page that was written since the restore.
    pub dirty: DirtyPages,
    /// How long the guest was stopped, step by step. If it stays stopped, until now.
    pub stopped: Timings,
}

impl Machine {
    /// Stops the guest and reads its state. The guest stays stopped. Streams to it stay open, but
    /// the state holds only the control stream: a guest that is restored from it finds all others
    /// reset. After an error, the machine continues as before.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has stopped by itself, [`MachineError::Busy`] if data for its
    /// agent is still in flight, or the state or memory cannot be read.
    pub fn capture(&self) -> Result<Captured, MachineError> {
        let (mut captured, stopped) = self.capture_stopped()?;
        stopped.stay();
        captured.dirty.trim();
        Ok(captured)
    }

    /// The same for a guest that resumes at once, with all its streams, as if nothing had
    /// happened. A paused guest stays paused.
    ///
    /// # Errors
    /// Those of [`Machine::capture`].
    pub fn capture_live(&self) -> Result<Captured, MachineError> {
        let (mut captured, stopped) = self.capture_stopped()?;
        drop(stopped);
        captured.stopped.step("resume");
        captured.dirty.trim();
        Ok(captured)
    }

    /// Has [`touched`](Self::touched) report exactly the pages that are read while the result is alive.
    /// Otherwise, the neighbours of a page count as read too.
    ///
    /// # Errors
    /// The host's kernel lacks this, or does not allow it to this user.
    pub fn record_reads(&self) -> Result<ReadRecorder, MachineError> {
        ReadRecorder::start(&self.ram).map_err(MachineError::memory("watched"))
    }

    /// Pauses the guest and returns the pages that it has used since the restore.
    ///
    /// # Errors
    /// The process's page map cannot be read.
    pub fn touched(&self) -> Result<WorkingSet, MachineError> {
        let _turn = self.turn();
        self.vcpus.pause();
        memory::touched(&self.ram).map_err(MachineError::memory("scanned"))
    }

    /// Captures, and returns the stopped guest as well.
    fn capture_stopped(&self) -> Result<(Captured, Stopped<'_>), MachineError> {
        let turn = self.turn();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        let mut map = PageMap::open().map_err(MachineError::memory("scanned"))?;
        let mut dirty =
            DirtyPages::prepare(&self.ram, &mut map).map_err(MachineError::memory("copied"))?;
        let mut attempts = 0;
        loop {
            let mut timings = Timings::start();
            let stopped = Stopped::new(&self.vcpus);
            timings.step("stop vCPUs");
            match self.read_stopped(&mut dirty, &mut map, &mut timings) {
                Ok(snapshot) => {
                    let stopped = stopped.with(turn);
                    return Ok((Captured { snapshot, dirty, stopped: timings }, stopped));
                }
                Err(MachineError::Busy) if stopped.resumes && attempts < CAPTURE_ATTEMPTS => {
                    attempts += 1;
                    drop(stopped);
                    thread::sleep(CAPTURE_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads state and pages of a stopped guest.
    fn read_stopped(
        &self,
        dirty: &mut DirtyPages,
        map: &mut PageMap,
        timings: &mut Timings,
    ) -> Result<Snapshot, MachineError> {
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        let _frozen = self.board.freeze()?;
        let vcpus = self.vcpus.save()?;
        timings.step("save vCPUs");
        let snapshot = self.state(vcpus)?;
        timings.step("save devices");
        dirty.find(&self.ram, map).map_err(MachineError::memory("scanned"))?;
        timings.step("find pages");
        dirty.copy(&self.ram).map_err(MachineError::memory("copied"))?;
        timings.step("copy pages");
        Ok(snapshot)
    }

    fn state(&self, vcpus: Vec<SavedVcpu>) -> Result<Snapshot, MachineError> {
        let time = (self.vm.read_clock()?, realtime_ns());
        let processor = self.vm.required(&arch_state(&self.origin)?.processor, &vcpus);
        let interrupts = (self.board.interrupts(), self.vm.save_interrupts()?);
        Ok(Snapshot {
            hypervisor: backend::family()?,
            machine: self.origin.machine.clone(),
            workload: self.origin.workload.clone(),
            stop: self.origin.stop,
            image_command: self.origin.image_command.clone(),
            after_restore: self.origin.after_restore.clone(),
            arch: arch::captured_state(processor, vcpus, interrupts, time),
            slots: self.board.slots(),
            serial: self.board.serial(),
            disks: self.origin.disks.clone(),
            working_set: WorkingSet::default(),
        })
    }
}

/// A stopped guest. Dropping this resumes it, if it ran before.
struct Stopped<'a> {
    vcpus: &'a Vcpus,
    resumes: bool,
    /// Keeps other commands away until the guest resumes.
    _turn: Option<MutexGuard<'a, ()>>,
}

impl<'a> Stopped<'a> {
    fn new(vcpus: &'a Vcpus) -> Self {
        Self { vcpus, resumes: vcpus.pause(), _turn: None }
    }

    fn with(mut self, turn: MutexGuard<'a, ()>) -> Self {
        self._turn = Some(turn);
        self
    }

    fn stay(mut self) {
        self.resumes = false;
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.resumes {
            self.vcpus.run();
        }
    }
}
