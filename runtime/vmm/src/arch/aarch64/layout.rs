//! The address space of an arm64 guest.
//!
//! Devices are below 1 GiB, RAM follows without a hole, and disks that are mapped into memory have
//! windows in the upper half of a space of 36 bits, which is the least that processors have.
//! Snapshots depend on every number here: a change is a new snapshot format version.

use supermachine_formats::snapshot::arch::aarch64 as formats;

pub use crate::arch::slots::*;
use crate::memory::RamWindow;

/// Where RAM begins.
pub const RAM_START: u64 = 0x4000_0000;
/// Bits of a guest's physical address.
pub const ADDRESS_BITS: u32 = 36;
/// The interrupt distributor's registers.
pub const DISTRIBUTOR_START: u64 = 0x0800_0000;
/// Bytes of the interrupt distributor's registers.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// The first vCPU's redistributor; the others follow.
pub const REDISTRIBUTORS_START: u64 = 0x0810_0000;
/// Bytes of a redistributor's registers.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Interrupts of the controller: 32 of each vCPU's own, and 32 shared ones.
pub const INTERRUPTS: u16 = 64;
/// The number of the first shared interrupt. Lines count from there.
pub const FIRST_SHARED: u32 = 32;
/// The virtual timer's interrupt, one of the vCPU's own.
pub const VIRTUAL_TIMER: u32 = 27;
/// The physical timer's interrupt.
pub const PHYSICAL_TIMER: u32 = 30;
/// The first slot's registers.
pub const SLOTS_START: u64 = formats::SLOTS_START;
/// Bytes of a slot's registers.
pub const SLOT_SIZE: u64 = formats::SLOT_SIZE;
/// The interrupt line of the first slot; the others follow.
pub const SLOT_FIRST_LINE: u8 = 1;
/// The serial port's registers.
pub const SERIAL_START: u64 = 0x0900_0000;
/// Bytes of the serial port's registers.
pub const SERIAL_SIZE: u64 = 8;
/// The serial port's interrupt line.
pub const SERIAL_LINE: u8 = 0;
/// The first window of a disk mapped into memory.
pub const PMEM_START: u64 = 1 << 35;
/// Distance between the windows of two mapped disks.
pub const PMEM_STRIDE: u64 = 1 << 31;

/// The most RAM of a machine in bytes: it ends below the windows of mapped disks.
pub const MAX_MEMORY: u64 = PMEM_START - RAM_START;

/// The windows of `memory_size` bytes of RAM in the guest's address space.
#[must_use]
pub fn ram_windows(memory_size: u64) -> Vec<RamWindow> {
    vec![RamWindow { guest_address: RAM_START, file_offset: 0, size: memory_size }]
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

/// The affinity fields of a vCPU's MPIDR. An interrupt message reaches the 16 vCPUs of a cluster.
#[must_use]
pub fn affinity(vcpu: u16) -> u64 {
    u64::from(vcpu & 0xf) | u64::from(vcpu >> 4) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_lie_within_the_address_space() {
        let windows = [
            (DISTRIBUTOR_START, DISTRIBUTOR_SIZE),
            (REDISTRIBUTORS_START, REDISTRIBUTOR_SIZE * u64::from(MAX_VCPUS)),
            (SERIAL_START, SERIAL_SIZE),
            (SLOTS_START, SLOT_SIZE * u64::from(SLOTS)),
            (RAM_START, MAX_MEMORY),
            (PMEM_START, PMEM_STRIDE * u64::from(SLOTS)),
        ];
        assert!(windows.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        let (start, size) = windows[windows.len() - 1];
        assert!(start + size <= 1 << ADDRESS_BITS);
    }

    #[test]
    fn every_line_is_a_shared_interrupt() {
        assert!(u32::from(slot_line(SLOTS - 1)) + FIRST_SHARED < u32::from(INTERRUPTS));
        assert!(SERIAL_LINE < slot_line(0));
    }

    #[test]
    fn affinities_have_clusters_of_sixteen() {
        assert_eq!([0, 15, 16, 31].map(affinity), [0, 15, 0x100, 0x10f]);
    }
}
