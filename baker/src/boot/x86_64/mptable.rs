//! The MP table: how a guest without ACPI learns of its processors and interrupt lines
//! (Intel MultiProcessor Specification 1.4).

use supermachine_vmm::layout::{IOAPIC_START, SLOTS, slot_line};

/// Where the table is: the last kibibyte of conventional memory, where kernels look.
pub(super) const ADDRESS: u64 = 0x9_fc00;

const LAPIC_ADDRESS: u32 = 0xfee0_0000;
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const SPECIFICATION: u8 = 4;
const ISA_BUS: u8 = 0;
const POINTER_SIZE: u64 = 16;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

/// Kinds of interrupt, as local and I/O entries name them.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// The table for `vcpus` processors, to be placed at [`ADDRESS`].
pub(super) fn table(vcpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[0, id, LAPIC_VERSION, flags]);
        // Family, model and stepping, and that there is a local interrupt controller.
        entry[4..8].copy_from_slice(&0x600_u32.to_le_bytes());
        entry[8..12].copy_from_slice(&0x201_u32.to_le_bytes());
        add(&entry);
    }
    add(b"\x01\x00ISA   ");
    let ioapic_id = vcpus;
    let mut ioapic = [2, ioapic_id, IOAPIC_VERSION, ENABLED, 0, 0, 0, 0];
    ioapic[4..].copy_from_slice(&(IOAPIC_START as u32).to_le_bytes());
    add(&ioapic);
    for line in 0..slot_line(SLOTS) {
        add(&[3, INT, 0, 0, ISA_BUS, line, ioapic_id, line]);
    }
    add(&[4, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[4, NMI, 0, 0, ISA_BUS, 0, 0xff, 1]);
    let mut out = pointer();
    out.extend_from_slice(&configuration(&entries, count));
    out
}

fn pointer() -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend_from_slice(&((ADDRESS + POINTER_SIZE) as u32).to_le_bytes());
    pointer.extend_from_slice(&[1, SPECIFICATION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer
}

fn configuration(entries: &[u8], count: u16) -> Vec<u8> {
    const HEADER: u16 = 44;
    let length = HEADER + u16::try_from(entries.len()).unwrap_or(u16::MAX - HEADER);
    let mut table = b"PCMP".to_vec();
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[SPECIFICATION, 0]);
    table.extend_from_slice(b"SUPERMACHINE MICROVM");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&LAPIC_ADDRESS.to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(entries);
    set_checksum(&mut table, 7);
    table
}

/// Makes all bytes add up to zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(at) {
        *checksum = checksum.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_parts_add_up_to_zero() {
        let table = table(4);
        assert_eq!(sum(&table[..16]), 0);
        assert_eq!(sum(&table[16..]), 0);
    }

    #[test]
    fn length_field_is_the_configuration_length() {
        let table = table(16);
        let length = u16::from_le_bytes([table[20], table[21]]);
        assert_eq!(usize::from(length), table.len() - 16);
    }

    #[test]
    fn the_largest_table_fits_its_kibibyte() {
        let vcpus = u8::try_from(supermachine_vmm::arch::MAX_VCPUS).unwrap();
        assert!(table(vcpus).len() <= 1024);
    }
}
