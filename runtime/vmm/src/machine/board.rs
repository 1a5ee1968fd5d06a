//! A machine's board: the interrupt controller, the slots and the serial port, on one bus.
//!
//! Holding, freezing, capturing and resetting walk the slots and name no device.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device as formats;

use super::slots::Ends;
use crate::arch::layout::{
    SERIAL_LINE, SERIAL_SIZE, SERIAL_START, SLOT_SIZE, VSOCK_SLOT, slot_address, slot_line,
};
use crate::arch::{InterruptController, InterruptSink, State};
use crate::devices::{
    Bus, Console, DeviceError, DiskFile, EventLoop, FreezeGuard, Resources, SerialPort, Slot,
    Streams, slot_from_state,
};
use crate::error::MachineError;
use crate::memory::GuestMemory;

const TOO_MUCH_SERIAL_INPUT: MachineError =
    MachineError::Snapshot { what: "more serial input than the port holds" };

/// A machine's devices.
#[derive(Debug)]
pub(super) struct Board {
    bus: Bus,
    interrupts: Arc<InterruptController>,
    slots: Vec<Slot>,
    serial: Arc<SerialPort>,
    console: Console,
    memory: Arc<GuestMemory>,
    disks: Vec<DiskFile>,
    events: Arc<EventLoop>,
}

impl Board {
    /// The board that a snapshot describes. `interrupts` is where interrupts go, and the state of
    /// their controller.
    ///
    /// # Errors
    /// A device's state is illegal, or the host lacks something that a device needs.
    pub(super) fn from_state(
        snapshot: &Snapshot,
        interrupts: (Arc<dyn InterruptSink>, &State),
        memory: Arc<GuestMemory>,
        disks: Vec<DiskFile>,
        ends: Ends<'_>,
    ) -> Result<Self, MachineError> {
        let interrupts = InterruptController::restore(interrupts.0, interrupts.1);
        let events = EventLoop::new().map_err(|source| MachineError::Events { source })?;
        let console = Console::default();
        let line = interrupts.line(SERIAL_LINE);
        let serial = SerialPort::from_state(&snapshot.serial, line, console.clone())
            .ok_or(TOO_MUCH_SERIAL_INPUT)?;
        let mut board = Self {
            bus: Bus::default(),
            interrupts,
            slots: Vec::with_capacity(snapshot.slots.len()),
            serial: Arc::new(serial),
            console,
            memory,
            disks,
            events: Arc::new(events),
        };
        for (index, state) in (0..).zip(&snapshot.slots) {
            let slot =
                slot_from_state(state, &board.resources(index, ends)).map_err(in_slot(index))?;
            board.bus.add(slot_address(index), SLOT_SIZE, slot.clone());
            board.slots.push(slot);
        }
        board.interrupts.place(&mut board.bus);
        board.bus.add(SERIAL_START, SERIAL_SIZE, board.serial.clone());
        Ok(board)
    }

    /// Puts every device back to the snapshot's state, in place. The vCPUs must be paused, and the
    /// board held.
    ///
    /// # Errors
    /// Those of [`Board::from_state`].
    pub(super) fn reset(
        &self,
        snapshot: &Snapshot,
        state: &State,
        ends: Ends<'_>,
    ) -> Result<(), MachineError> {
        self.interrupts.reset(state);
        for ((index, state), slot) in (0..).zip(&snapshot.slots).zip(&self.slots) {
            slot.reset(state, self.resources(index, ends)).map_err(in_slot(index))?;
        }
        let line = self.interrupts.line(SERIAL_LINE);
        self.serial
            .reset(&snapshot.serial, line, self.console.clone())
            .ok_or(TOO_MUCH_SERIAL_INPUT)?;
        self.console.clear();
        Ok(())
    }

    /// Holds every device still, as far as the host drives it.
    pub(super) fn hold(&self) -> FreezeGuard<'_> {
        self.events.hold()
    }

    /// The same, if the devices' states hold everything that is in flight.
    ///
    /// # Errors
    /// [`MachineError::Busy`].
    pub(super) fn freeze(&self) -> Result<FreezeGuard<'_>, MachineError> {
        let held = self.hold();
        if self.slots.iter().all(|slot| slot.is_quiet()) {
            Ok(held)
        } else {
            Err(MachineError::Busy)
        }
    }

    /// Releases everything that waits for the guest, which will never run again.
    pub(super) fn hang_up(&self) {
        self.slots.iter().for_each(|slot| slot.hang_up());
    }

    /// Answers a guest's read.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) {
        self.bus.read(address, data);
    }

    /// Takes a guest's write.
    pub(super) fn write(&self, address: u64, data: &[u8]) {
        self.bus.write(address, data);
    }

    /// The states of the slots. The vCPUs must be paused, and the board held.
    pub(super) fn slots(&self) -> Vec<formats::Slot> {
        self.slots.iter().map(|slot| slot.state()).collect()
    }

    /// The serial port's state.
    pub(super) fn serial(&self) -> formats::Serial {
        self.serial.state()
    }

    /// The interrupt controller.
    pub(super) fn interrupts(&self) -> &InterruptController {
        &self.interrupts
    }

    /// The tail of the guest kernel's messages.
    pub(super) fn console(&self) -> &Console {
        &self.console
    }

    /// The machine's streams; `None` without a socket device in its slot.
    pub(super) fn streams(&self) -> Option<Streams> {
        Streams::of(self.slots.get(usize::from(VSOCK_SLOT))?, &self.events)
    }

    fn resources(&self, slot: u8, ends: Ends<'_>) -> Resources<'_> {
        let share = ends.shares.iter().find(|share| share.slot == slot);
        let volume = ends.volumes.iter().find(|volume| volume.slot == slot);
        Resources {
            memory: Arc::clone(&self.memory),
            line: self.interrupts.line(slot_line(slot)),
            disks: &self.disks,
            network: ends.network.cloned(),
            share: share.map(|share| Arc::clone(&share.server)),
            volume: volume.map(|volume| Arc::clone(&volume.disk)),
            events: self.events.device(),
        }
    }
}

/// The serial port of a machine that was never run.
#[must_use]
pub fn reset_serial() -> formats::Serial {
    SerialPort::reset_state()
}

fn in_slot(index: u8) -> impl Fn(DeviceError) -> MachineError {
    move |source| MachineError::Device { slot: usize::from(index), source }
}
