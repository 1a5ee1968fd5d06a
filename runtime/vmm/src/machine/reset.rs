//! Puts a machine back to its snapshot, in place.
//!
//! Order: stop the vCPUs, hold the devices, then overwrite devices, vCPUs and memory. The caller
//! continues as after a restore.

use std::sync::PoisonError;

use super::lifecycle::Machine;
use super::restore::arch_state;
use super::slots::Ends;
use super::timings::Timings;
use crate::arch::{self, layout::ram_windows};
use crate::error::MachineError;
use crate::memory::{self, Ram};
use crate::os::Populate;

impl Machine {
    /// Whether [`Machine::reset`] works. It does not if pages arrive on demand: each can be read
    /// only once.
    #[must_use]
    pub fn can_reset(&self) -> bool {
        self.memory_files.is_some()
    }

    /// Puts the machine back to where its snapshot was taken, in place of restoring another one.
    /// The guest is paused then, as after [`Machine::restore`]. All streams are closed, the control
    /// stream is a new one, and nothing is left of what the guest and its users did, except for
    /// processor registers that no snapshot holds. A network interface gets a new other end, so that no
    /// frame crosses the reset, and so does each folder of the host and each volume.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if the guest has stopped by itself, [`MachineError::Unresettable`]
    /// if the machine [cannot be reset](Machine::can_reset), or the host refuses. After an error
    /// the machine must not be used.
    pub fn reset(&self, ends: Ends<'_>, timings: &mut Timings) -> Result<(), MachineError> {
        let pristine = self.pristine()?;
        let snapshot = &*self.origin;
        let _turn = self.turn();
        self.vcpus.pause();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        timings.step("stop vCPUs");
        let _held = self.board.hold();
        self.vcpus.exit_state().end_use();
        let state = arch_state(snapshot)?;
        self.board.reset(snapshot, state, ends)?;
        timings.step("reset devices");
        // Before memory, because an operation in progress may still write to it. After devices,
        // which may have sent interrupts.
        self.vcpus.reset()?;
        self.vm.restore_interrupts(state)?;
        timings.step("reset vCPUs");
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // Code that is copied over would stay in the guest's instruction caches as it was.
        let (kept, spare) = if arch::HAS_COHERENT_INSTRUCTIONS {
            (&*snapshot.working_set.written, Some(&mut *spare))
        } else {
            (&[][..], None)
        };
        memory::roll_back(&self.ram, pristine, kept, spare)
            .map_err(MachineError::memory("restored"))?;
        timings.step("reset memory");
        self.vm.set_clock(&arch::clock(state))?;
        Ok(())
    }

    /// The original memory, in a second mapping.
    fn pristine(&self) -> Result<&Ram, MachineError> {
        let files = self.memory_files.as_ref().ok_or(MachineError::Unresettable)?;
        if let Some(pristine) = self.pristine.get() {
            return Ok(pristine);
        }
        let windows = ram_windows(self.origin.machine.memory_size);
        let pristine = Ram::map(files, windows).map_err(MachineError::memory("mapped"))?;
        pristine.populate(&self.origin.working_set.written, Populate::Read);
        Ok(self.pristine.get_or_init(|| pristine))
    }
}
