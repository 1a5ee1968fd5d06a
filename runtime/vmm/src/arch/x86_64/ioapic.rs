//! The I/O interrupt controller: turns edges on its pins into interrupt messages.
//!
//! Every pin is edge-triggered: an edge becomes one message, and is dropped while the pin is
//! masked. A pin that the guest programs as level-triggered behaves the same.

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use supermachine_formats::snapshot::arch::x86_64 as formats;
use supermachine_formats::snapshot::arch::x86_64::IOAPIC_PINS;

use super::layout::{IOAPIC_SIZE, IOAPIC_START};
use crate::devices::{Bus, BusDevice, Line};

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION: u8 = 0x10;

/// Version 0x11; the number of the last pin in bits 16 to 23.
const VERSION_VALUE: u32 = 0x11 | ((IOAPIC_PINS as u32 - 1) << 16);
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR are read-only.
const READ_ONLY: u64 = (1 << 12) | (1 << 14);
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// Delivers message-signalled interrupts to the guest's processors.
pub(crate) trait InterruptSink: Debug + Send + Sync {
    /// Delivers one message. A message to a processor that does not exist is dropped, as
    /// hardware does.
    fn deliver(&self, address: u64, data: u32);
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Ioapic {
    sink: Arc<dyn InterruptSink>,
    /// Guards the registers. Held while a message is delivered, so that a pin's messages and its
    /// reprogramming stay in order.
    registers: Mutex<Registers>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Registers {
    id: u32,
    selected: u8,
    pins: [u64; IOAPIC_PINS],
}

impl Ioapic {
    /// The controller of a restored machine. Every register value is legal: a guest can write
    /// them all.
    pub(crate) fn restore(sink: Arc<dyn InterruptSink>, state: &formats::State) -> Arc<Self> {
        Self::from_state(sink, &state.ioapic)
    }

    fn from_state(sink: Arc<dyn InterruptSink>, state: &formats::Ioapic) -> Arc<Self> {
        Arc::new(Self { sink, registers: Mutex::new(registers(state)) })
    }

    /// Puts a machine's saved registers in place.
    pub(crate) fn reset(&self, state: &formats::State) {
        *self.lock() = registers(&state.ioapic);
    }

    /// Adds the controller's registers to the bus.
    pub(crate) fn place(self: &Arc<Self>, bus: &mut Bus) {
        bus.add(IOAPIC_START, IOAPIC_SIZE, self.clone());
    }

    /// The registers.
    pub(crate) fn state(&self) -> formats::Ioapic {
        let Registers { id, selected, pins } = self.lock().clone();
        formats::Ioapic { id, selected, pins }
    }

    /// The interrupt line on a pin.
    pub(crate) fn line(self: &Arc<Self>, pin: u8) -> Arc<dyn Line> {
        Arc::new(Pin { ioapic: Arc::clone(self), pin })
    }

    fn raise(&self, pin: u8) {
        let registers = self.lock();
        let Some(entry) = registers.pins.get(usize::from(pin)).copied() else { return };
        if entry & MASKED != 0 {
            return;
        }
        let destination = entry >> 56 & 0xff;
        let logical = entry >> 11 & 1;
        let address = MESSAGE_ADDRESS | destination << 12 | logical << 2;
        // Vector and delivery mode have the same places in the message.
        let data = (entry & 0x7ff) as u32;
        self.sink.deliver(address, data);
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Ioapic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        let value = match offset {
            SELECT => u32::from(registers.selected),
            WINDOW => registers.read_selected(),
            _ => 0,
        };
        for (out, byte) in data.iter_mut().zip(value.to_le_bytes().into_iter().chain([0; 4])) {
            *out = byte;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (out, byte) in bytes.iter_mut().zip(data) {
            *out = *byte;
        }
        let value = u32::from_le_bytes(bytes);
        let mut registers = self.lock();
        match offset {
            SELECT => registers.selected = value.to_le_bytes()[0],
            WINDOW => registers.write_selected(value),
            _ => {}
        }
    }
}

impl Registers {
    fn read_selected(&self) -> u32 {
        match self.selected {
            ID => self.id,
            VERSION => VERSION_VALUE,
            ARBITRATION => self.id,
            selected => self.pin_half(selected).map_or(0, |(pin, high)| {
                let entry = self.pins.get(pin).copied().unwrap_or(0);
                if high { (entry >> 32) as u32 } else { entry as u32 }
            }),
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.selected == ID {
            self.id = value & 0x0f00_0000;
        } else if let Some((pin, high)) = self.pin_half(self.selected)
            && let Some(entry) = self.pins.get_mut(pin)
        {
            let value = u64::from(value);
            *entry = if high {
                (*entry & 0xffff_ffff) | (value << 32)
            } else {
                (*entry & (0xffff_ffff_0000_0000 | READ_ONLY)) | (value & !READ_ONLY)
            };
        }
    }

    /// Which pin a register belongs to, and whether it is the entry's upper half.
    fn pin_half(&self, register: u8) -> Option<(usize, bool)> {
        let index = register.checked_sub(REDIRECTION)?;
        Some((usize::from(index / 2), index % 2 == 1))
    }
}

fn registers(state: &formats::Ioapic) -> Registers {
    Registers { id: state.id & 0x0f00_0000, selected: state.selected, pins: state.pins }
}

/// One line into the controller.
#[derive(Debug)]
struct Pin {
    ioapic: Arc<Ioapic>,
    pin: u8,
}

impl Line for Pin {
    fn raise(&self) {
        self.ioapic.raise(self.pin);
    }
}
