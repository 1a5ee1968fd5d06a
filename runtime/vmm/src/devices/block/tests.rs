//! Correct, wrong and hostile requests to the disk.

use crate::devices::DiskFile;
use crate::devices::fresh_block;
use crate::devices::testing::{Guest, INDIRECT, WRITE, assert_hostile_chains_stop, disk, refusal};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn pattern() -> Vec<u8> {
    (0..200 * 512_u32).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn disks() -> [DiskFile; 1] {
    [disk(&pattern())]
}

/// Sends a request with one data buffer. Returns status, used length and data.
fn request(guest: &mut Guest, kind: u32, sector: u64, length: usize) -> (u8, u32, Vec<u8>) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    let header = guest.place(&header);
    let data = guest.place(&vec![0; length]);
    let status = guest.place(&[0xff]);
    let mut chain = vec![(header, 16, false), (data, length, kind != OUT), (status, 1, true)];
    if length == 0 {
        chain.remove(1);
    }
    let head = guest.add(0, &chain);
    guest.notify(0);
    let (used, written) = guest.take_used(0).unwrap();
    assert_eq!(used, u32::from(head));
    (guest.load(status, 1)[0], written, guest.load(data, length))
}

#[test]
fn config_holds_capacity_and_segments() {
    let guest = Guest::new(&fresh_block(0), &disks());
    assert_eq!([0x100, 0x104, 0x108, 0x10c].map(|at| guest.get(at)), [200, 0, 0, 254]);
    assert_eq!(guest.get(0x10), 1 << 5 | 1 << 2 | 1 << 9);
}

#[test]
fn read_returns_the_file() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    let (status, written, data) = request(&mut guest, IN, 3, 1024);
    assert_eq!((status, written), (OK, 1025));
    assert_eq!(data, pattern()[3 * 512..5 * 512]);
    let (status, _, data) = request(&mut guest, IN, 0, 200 * 512);
    assert_eq!(status, OK);
    assert!(data == pattern());
}

#[test]
fn read_off_the_disk_fails() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    for (sector, length) in
        [(200, 512), (199, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511)]
    {
        assert_eq!(request(&mut guest, IN, sector, length).0, IOERR, "{sector} {length}");
    }
    assert_eq!(request(&mut guest, IN, 199, 512).0, OK);
}

#[test]
fn file_cut_short_fails_the_read() {
    let [disk] = disks();
    disk.file.as_ref().unwrap().set_len(512).unwrap();
    let mut guest = Guest::running(&fresh_block(0), &[disk]);
    assert_eq!(request(&mut guest, IN, 0, 512).0, OK);
    assert_eq!(request(&mut guest, IN, 1, 512).0, IOERR);
}

#[test]
fn write_is_refused_and_changes_nothing() {
    let [disk] = disks();
    let file = disk.file.clone().unwrap();
    let mut guest = Guest::running(&fresh_block(0), &[disk]);
    assert_eq!(request(&mut guest, OUT, 0, 512).0, IOERR);
    let mut bytes = vec![0; 512];
    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0).unwrap();
    assert!(bytes == pattern()[..512]);
}

#[test]
fn flush_succeeds_and_unknown_requests_are_unsupported() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    assert_eq!(request(&mut guest, FLUSH, 0, 0).0, OK);
    assert_eq!(request(&mut guest, 11, 0, 512).0, UNSUPP);
    assert_eq!(request(&mut guest, u32::MAX, 0, 0).0, UNSUPP);
}

#[test]
fn identify_returns_the_name() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    let (status, _, name) = request(&mut guest, GET_ID, 0, 20);
    assert_eq!((status, &name[..]), (OK, &b"supermachine-0\0\0\0\0\0\0"[..]));
    assert_eq!(request(&mut guest, GET_ID, 0, 8).0, IOERR);
}

#[test]
fn request_without_status_stops_device() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    let header = guest.place(&[0; 16]);
    guest.add(0, &[(header, 16, false)]);
    guest.notify(0);
    assert!(guest.is_broken());
}

#[test]
fn header_cut_short_fails_the_request() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    let (header, status) = (guest.place(&[0; 16]), guest.place(&[0xff]));
    guest.add(0, &[(header, 15, false), (status, 1, true)]);
    guest.notify(0);
    assert_eq!(guest.load(status, 1), [IOERR]);
}

#[test]
fn read_longer_than_the_limit_fails() {
    let [disk] = disks();
    disk.file.as_ref().unwrap().set_len(64 << 20).unwrap();
    let disk = DiskFile { size: 64 << 20, ..disk };
    let mut guest = Guest::running(&fresh_block(0), &[disk]);
    let (header, status) = (guest.place(&[0; 16]), guest.place(&[0xff]));
    let piece = (0x20_0000, 1 << 20, true);
    guest.add(0, &[(header, 16, false), piece, piece, piece, piece, piece, (status, 1, true)]);
    guest.notify(0);
    assert_eq!(guest.load(status, 1), [IOERR]);
    assert!(!guest.is_broken());
}

#[test]
fn indirect_table_longer_than_the_queue_stops_device() {
    let mut guest = Guest::running(&fresh_block(0), &disks());
    for index in 0..2000_u64 {
        let mut bytes = 0x10_0000_u64.to_le_bytes().to_vec();
        bytes.extend(16_u32.to_le_bytes());
        bytes.extend((WRITE | 1).to_le_bytes());
        bytes.extend(u16::try_from(index + 1).unwrap().to_le_bytes());
        guest.store(0x40_0000 + index * 16, &bytes);
    }
    guest.describe(0, 0, (0x40_0000, 2000 * 16), INDIRECT, 0);
    guest.offer(0, 0);
    guest.notify(0);
    assert!(guest.is_broken());
}

#[test]
fn hostile_chains_stop_device_until_reset() {
    assert_hostile_chains_stop(&fresh_block(0), &disks(), 0, |guest| {
        assert_eq!(request(guest, IN, 0, 512).0, OK);
    });
}

#[test]
fn state_with_an_unknown_disk_is_refused() {
    assert!(refusal(&fresh_block(1), &disks()).contains("disk is 0x1"));
}
