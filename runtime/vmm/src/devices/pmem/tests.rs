//! Flush requests, hostile ones, and states that no disk can be in.

use supermachine_formats::snapshot::device as formats;

use crate::devices::fresh_pmem;
use crate::devices::testing::{Guest, assert_hostile_chains_stop, disk, refusal};

const ADDRESS: u64 = 0x1_0000_0000;
const SIZE: u64 = 0x20_0000;

fn request(guest: &mut Guest, kind: u32) -> u32 {
    let request = guest.place(&kind.to_le_bytes());
    let answer = guest.place(&[0xff; 4]);
    let head = guest.add(0, &[(request, 4, false), (answer, 4, true)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0), Some((head.into(), 4)));
    u32::from_le_bytes(guest.load(answer, 4).try_into().unwrap())
}

#[test]
fn config_holds_the_window() {
    let guest = Guest::new(&fresh_pmem(0, ADDRESS, SIZE), &[disk(&[1; 5000])]);
    let mut config = [0; 16];
    guest.slot.read(0x100, &mut config);
    assert_eq!(config[..8], ADDRESS.to_le_bytes());
    assert_eq!(config[8..], SIZE.to_le_bytes());
    assert_eq!(guest.get(8), 27);
}

#[test]
fn flush_succeeds_and_other_requests_fail() {
    let mut guest = Guest::running(&fresh_pmem(0, ADDRESS, SIZE), &[disk(&[1; 4096])]);
    assert_eq!(request(&mut guest, 0), 0);
    assert_eq!(request(&mut guest, 1), 1);
    assert_eq!(guest.interrupts(), 2);
}

#[test]
fn hostile_chains_stop_device_until_reset() {
    let disks = [disk(&[1; 4096])];
    assert_hostile_chains_stop(&fresh_pmem(0, ADDRESS, SIZE), &disks, 0, |guest| {
        assert_eq!(request(guest, 0), 0);
    });
}

#[test]
fn short_request_stops_device() {
    for buffers in [
        [(0x10_0000, 3, false), (0x10_0100, 4, true)],
        [(0x10_0000, 4, false), (0x10_0100, 3, true)],
        [(0x10_0000, 0, false), (0x10_0100, 0, true)],
    ] {
        let mut guest = Guest::running(&fresh_pmem(0, ADDRESS, SIZE), &[disk(&[1; 4096])]);
        guest.add(0, &buffers);
        guest.notify(0);
        assert!(guest.is_broken());
    }
}

#[test]
fn state_with_an_illegal_field_is_refused() {
    let disks = [disk(&[0; 8192])];
    for (expected, disk, address, size) in [
        ("disk is 0x1", 1, ADDRESS, SIZE),
        ("address is 0x0", 0, 0, SIZE),
        ("address is 0x100000800", 0, ADDRESS + 0x800, SIZE),
        ("address is 0xfffffffffffff000", 0, !0xfff, SIZE),
        ("size is 0x0", 0, ADDRESS, 0),
        ("size is 0x1000", 0, ADDRESS, 0x1000),
        ("size is 0x3001", 0, ADDRESS, 0x3001),
    ] {
        let refused = refusal(&fresh_pmem(disk, address, size), &disks);
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn state_keeps_the_window() {
    let guest = Guest::running(&fresh_pmem(0, ADDRESS, SIZE), &[disk(&[1; 4096])]);
    let formats::Slot::Pmem(_, state) = guest.slot.state() else { panic!("a disk") };
    assert_eq!(state, formats::Pmem { disk: 0, address: ADDRESS, size: SIZE });
}
