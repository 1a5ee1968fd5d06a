//! Which device answers at which address.
//!
//! The layout is fixed, so an address is matched, not looked up. What no device answers
//! reads as all ones and swallows writes, as on real hardware.

use std::sync::Arc;

use super::devices::ioapic::Ioapic;
use super::devices::serial::SerialPort;
use super::devices::virtio::Slot;
use super::hypervisor::Exit;
use super::layout::{IOAPIC_SIZE, IOAPIC_START, SERIAL_PORT, SLOT_SIZE, SLOTS_START};

const SERIAL_REGISTERS: u16 = 8;

/// A machine's devices, by address.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(super) slots: Vec<Slot>,
    pub(super) ioapic: Arc<Ioapic>,
    pub(super) serial: SerialPort,
}

impl Bus {
    /// Answers an exit that asks for a device. Gives other exits back.
    pub(crate) fn serve<'a>(&self, exit: Exit<'a>) -> Option<Exit<'a>> {
        match exit {
            Exit::MmioRead { address, data } => self.read(address, data),
            Exit::MmioWrite { address, data } => self.write(address, data),
            Exit::PortRead { port, data } => self.read_port(port, data),
            Exit::PortWrite { port, data } => self.write_port(port, data),
            other => return Some(other),
        }
        None
    }

    fn read(&self, address: u64, data: &mut [u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            slot.read(offset, data);
        } else if let Some(offset) = ioapic_offset(address) {
            self.ioapic.read(offset, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            slot.write(offset, data);
        } else if let Some(offset) = ioapic_offset(address) {
            self.ioapic.write(offset, data);
        }
    }

    fn read_port(&self, port: u16, data: &mut [u8]) {
        match (serial_register(port), data) {
            (Some(register), [byte]) => *byte = self.serial.read(register),
            (_, data) => data.fill(0xff),
        }
    }

    fn write_port(&self, port: u16, data: &[u8]) {
        if let Some(register) = serial_register(port) {
            // A string output instruction gives several bytes for one register.
            for byte in data {
                self.serial.write(register, *byte);
            }
        }
    }

    fn slot(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(SLOTS_START)?;
        let index = usize::try_from(offset / SLOT_SIZE).ok()?;
        Some((self.slots.get(index)?, offset % SLOT_SIZE))
    }
}

fn ioapic_offset(address: u64) -> Option<u64> {
    address.checked_sub(IOAPIC_START).filter(|offset| *offset < IOAPIC_SIZE)
}

fn serial_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(SERIAL_PORT).filter(|register| *register < SERIAL_REGISTERS)?;
    u8::try_from(register).ok()
}
