//! The address space of an x86_64 guest.
//!
//! RAM begins at 0 and leaves out the last gigabyte below 4 GiB, where devices are. What is
//! beyond goes on at 4 GiB. Disks that are mapped into memory have windows far above RAM.
//! Snapshots depend on every number here: a change is a new snapshot format version.

/// Where RAM below 4 GiB ends.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM above 4 GiB begins.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// The first slot's registers.
pub const SLOTS_START: u64 = 0xd000_0000;
/// Bytes of a slot's registers.
pub const SLOT_SIZE: u64 = 0x1000;
/// Slots that a machine has.
pub const SLOTS: u8 = 16;
/// The interrupt line of the first slot; the others follow.
pub const SLOT_FIRST_LINE: u8 = 5;
/// The I/O interrupt controller's registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Bytes of the I/O interrupt controller's registers.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The serial port's first I/O port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The serial port's interrupt line.
pub const SERIAL_LINE: u8 = 4;
/// The first window of a disk mapped into memory.
pub const PMEM_START: u64 = 0x20_0000_0000;
/// Distance between the windows of two mapped disks.
pub const PMEM_STRIDE: u64 = 0x10_0000_0000;

/// The slot of the socket device.
pub const VSOCK_SLOT: u8 = 0;
/// The slot of the random device.
pub const RNG_SLOT: u8 = 1;
/// The slot of the root file system.
pub const ROOT_SLOT: u8 = 2;

/// A stretch of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamWindow {
    /// Its address in the guest.
    pub guest_address: u64,
    /// Its offset in the memory file.
    pub file_offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Where `memory_size` bytes of RAM are in the guest's address space.
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

/// The guest's context id on the socket device.
pub const GUEST_CID: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_window() {
        let windows = ram_windows(128 << 20);
        let expected = RamWindow { guest_address: 0, file_offset: 0, size: 128 << 20 };
        assert_eq!(windows, [expected]);
    }

    #[test]
    fn large_memory_leaves_the_device_hole_out() {
        let windows = ram_windows(4 << 30);
        assert_eq!(windows.iter().map(|window| window.size).sum::<u64>(), 4 << 30);
        assert_eq!(windows[1].guest_address, HIGH_RAM_START);
        assert_eq!(windows[1].file_offset, LOW_RAM_END);
    }

    #[test]
    fn every_slot_has_a_line_of_the_interrupt_controller() {
        assert!(slot_line(SLOTS - 1) < 24);
        assert!(slot_address(SLOTS) <= IOAPIC_START);
    }
}
