//! The address space of an x86_64 guest.
//!
//! RAM starts at 0 and leaves out the last gigabyte below 4 GiB, where devices are. The rest of it
//! starts at 4 GiB. Disks that are mapped into memory have windows far above RAM.
//! Snapshots depend on every number here: a change is a new snapshot format version.

pub use crate::arch::slots::*;
use crate::memory::RamWindow;

/// Where RAM below 4 GiB ends.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM above 4 GiB begins.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// The first slot's registers.
pub const SLOTS_START: u64 = 0xd000_0000;
/// Bytes of a slot's registers.
pub const SLOT_SIZE: u64 = 0x1000;
/// The interrupt line of the first slot; the others follow.
pub const SLOT_FIRST_LINE: u8 = 5;
/// The I/O interrupt controller's registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Bytes of the I/O interrupt controller's registers.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The serial port's first I/O port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The serial port's registers, as an address on the bus.
pub const SERIAL_START: u64 = port_address(SERIAL_PORT);
/// Bytes of the serial port's registers.
pub const SERIAL_SIZE: u64 = 8;
/// The serial port's interrupt line.
pub const SERIAL_LINE: u8 = 4;
/// The first window of a disk mapped into memory.
pub const PMEM_START: u64 = 0x20_0000_0000;
/// Distance between the windows of two mapped disks.
pub const PMEM_STRIDE: u64 = 0x10_0000_0000;

/// The most RAM of a machine in bytes: it ends below the windows of mapped disks.
pub const MAX_MEMORY: u64 = 96 << 30;

/// Where I/O ports are on the bus: far above every physical address.
const PORTS_START: u64 = 1 << 63;

/// The address on the bus of an I/O port.
#[must_use]
pub const fn port_address(port: u16) -> u64 {
    PORTS_START + port as u64
}

/// The windows of `memory_size` bytes of RAM in the guest's address space.
#[must_use]
pub fn ram_windows(memory_size: u64) -> Vec<RamWindow> {
    let low = memory_size.min(LOW_RAM_END);
    let mut windows = vec![RamWindow { guest_address: 0, file_offset: 0, size: low }];
    if memory_size > low {
        windows.push(RamWindow {
            guest_address: HIGH_RAM_START,
            file_offset: low,
            size: memory_size - low,
        });
    }
    windows
}

/// The address of a slot's registers.
#[must_use]
pub fn slot_address(slot: u8) -> u64 {
    SLOTS_START + u64::from(slot) * SLOT_SIZE
}

/// The interrupt line of a slot.
#[must_use]
pub fn slot_line(slot: u8) -> u8 {
    SLOT_FIRST_LINE + slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_windows_of_small_memory_is_one() {
        let windows = ram_windows(128 << 20);
        let expected = RamWindow { guest_address: 0, file_offset: 0, size: 128 << 20 };
        assert_eq!(windows, [expected]);
    }

    #[test]
    fn ram_windows_of_large_memory_leave_out_devices() {
        let windows = ram_windows(4 << 30);
        assert_eq!(windows.iter().map(|window| window.size).sum::<u64>(), 4 << 30);
        assert_eq!(windows[1].guest_address, HIGH_RAM_START);
        assert_eq!(windows[1].file_offset, LOW_RAM_END);
    }

    #[test]
    fn slot_line_of_last_slot_is_a_pin() {
        assert!(slot_line(SLOTS - 1) < 24);
        assert!(slot_address(SLOTS) <= IOAPIC_START);
    }
}
