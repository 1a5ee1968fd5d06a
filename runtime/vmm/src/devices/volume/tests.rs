//! Requests to a volume, across restores and resets, and drivers that break the rules.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::snapshot::device as formats;

use super::fresh_volume;
use crate::devices::VolumeDisk;
use crate::devices::testing::{Guest, HOSTILE_CHAINS, freeze, refusal};

const PATIENCE: Duration = Duration::from_secs(60);
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const UNMAP: u32 = 1;
/// The disk's sectors. The file is longer than the disk.
const SECTORS: u64 = 2048;
const BEYOND: u64 = 64 << 10;

/// A file that is longer than the disk, without holes.
fn file() -> File {
    let mut file = tempfile::tempfile().unwrap();
    let length = usize::try_from(SECTORS * 512 + BEYOND).unwrap();
    file.write_all(&vec![0x77; length]).unwrap();
    file
}

fn state() -> formats::Slot {
    fresh_volume("data", "/data")
}

/// A driver that runs a disk, and the disk's file.
fn stored(is_read_only: bool) -> (Guest, File) {
    let file = file();
    let disk = VolumeDisk::new(file.try_clone().unwrap(), SECTORS * 512, is_read_only);
    let mut guest = Guest::storing(&state(), disk);
    guest.bring_up();
    (guest, file)
}

/// Waits for a condition that another thread brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Sends a request with this data and this room for an answer. Returns status, used length and answer.
fn request(
    guest: &mut Guest,
    kind: u32,
    sector: u64,
    data: &[u8],
    room: usize,
) -> (u8, u32, Vec<u8>) {
    let mut request = kind.to_le_bytes().to_vec();
    request.extend([0; 4]);
    request.extend(sector.to_le_bytes());
    request.extend(data);
    let from = guest.place(&request);
    let to = guest.place(&vec![0xee; room]);
    let status = guest.place(&[0xff]);
    let mut chain = vec![(from, request.len(), false), (to, room, true), (status, 1, true)];
    if room == 0 {
        chain.remove(1);
    }
    let head = guest.add(0, &chain);
    guest.notify(0);
    let mut used = None;
    until("a request is answered", || {
        used = guest.take_used(0);
        used.is_some()
    });
    let (used, written) = used.unwrap();
    assert_eq!(used, u32::from(head));
    (guest.load(status, 1)[0], written, guest.load(to, room))
}

fn read(guest: &mut Guest, sector: u64, length: usize) -> Vec<u8> {
    let (status, written, data) = request(guest, IN, sector, &[], length);
    assert_eq!((status, written), (OK, u32::try_from(length).unwrap() + 1));
    data
}

fn ranges(list: &[(u64, u32, u32)]) -> Vec<u8> {
    let bytes = |(sector, count, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    list.iter().flat_map(bytes).collect()
}

fn bytes_at(file: &File, start: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start).unwrap();
    bytes
}

fn assert_nothing_beyond(file: &File) {
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512 + BEYOND);
    assert!(bytes_at(file, SECTORS * 512, 64 << 10).iter().all(|byte| *byte == 0x77));
}

#[test]
fn config_holds_capacity_and_limits() {
    let (guest, _) = stored(false);
    let registers = [0x100, 0x104, 0x10c, 0x114, 0x124, 0x128, 0x12c, 0x130, 0x134, 0x138];
    let expected = [2048, 0, 254, 512, 1 << 21, 32, 8, 1 << 21, 32, 1];
    assert_eq!(registers.map(|at| guest.get(at)), expected);
    assert_eq!(guest.get(0x08), 2);
}

#[test]
fn size_is_rounded_down_to_blocks() {
    assert_eq!(VolumeDisk::new(file(), 3 * 4096 + 4095, false).size(), 3 * 4096);
}

#[test]
fn what_is_written_is_in_the_file_and_read_again() {
    let (mut guest, file) = stored(false);
    let data: Vec<u8> = (0..4096_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    assert_eq!(request(&mut guest, OUT, 3, &data, 0), (OK, 1, vec![]));
    assert_eq!(request(&mut guest, FLUSH, 0, &[], 0).0, OK);
    assert!(bytes_at(&file, 3 * 512, 4096) == data);
    assert!(read(&mut guest, 3, 4096) == data);
    assert_eq!(read(&mut guest, 2, 512), [0x77; 512]);
    let last = SECTORS - 1;
    assert_eq!(request(&mut guest, OUT, last, &[1; 512], 0).0, OK);
    assert_eq!(read(&mut guest, last, 512), [1; 512]);
    assert_nothing_beyond(&file);
}

#[test]
fn requests_beyond_the_disk_or_of_parts_of_sectors_fail_and_change_nothing() {
    let (mut guest, file) = stored(false);
    for (sector, length) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 511),
        (0, 513),
    ] {
        let data = vec![0; length];
        assert_eq!(request(&mut guest, OUT, sector, &data, 0).0, IOERR, "{sector} {length}");
        assert_eq!(request(&mut guest, IN, sector, &[], length).0, IOERR, "{sector} {length}");
    }
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, count) in
            [(SECTORS, 8), (SECTORS - 8, 16), (u64::MAX, 8), (0, (1 << 21) + 1), (0, u32::MAX)]
        {
            // The good range before it stays untouched, too.
            let list = ranges(&[(0, 8, 0), (sector, count, 0)]);
            assert_eq!(request(&mut guest, kind, 0, &list, 0).0, IOERR, "{kind} {sector} {count}");
        }
        let many = ranges(&[(0, 8, 0); 33]);
        assert_eq!(request(&mut guest, kind, 0, &many, 0).0, IOERR);
        assert_eq!(request(&mut guest, kind, 0, &many[..17], 0).0, IOERR);
        let unknown = ranges(&[(0, 8, 2)]);
        assert_eq!(request(&mut guest, kind, 0, &unknown, 0).0, UNSUPP);
    }
    let length = usize::try_from(SECTORS * 512).unwrap();
    assert!(bytes_at(&file, 0, length).iter().all(|byte| *byte == 0x77));
    assert_nothing_beyond(&file);
}

#[test]
fn discard_and_zeroes_clear_ranges_and_give_room_back() {
    let (mut guest, file) = stored(false);
    let before = file.metadata().unwrap().blocks();
    let list = ranges(&[(8, 8, 0), (1024, 1024, 0)]);
    assert_eq!(request(&mut guest, DISCARD, 0, &list, 0).0, OK);
    assert_eq!(read(&mut guest, 8, 4096), [0; 4096]);
    assert_eq!(read(&mut guest, 16, 4096), [0x77; 4096]);
    let after = file.metadata().unwrap().blocks();
    assert!(after + 1024 <= before, "{before} {after}");
    let list = ranges(&[(32, 512, UNMAP)]);
    assert_eq!(request(&mut guest, WRITE_ZEROES, 0, &list, 0).0, OK);
    assert!(file.metadata().unwrap().blocks() + 504 <= after);
    // Without permission to free, the room stays.
    let after = file.metadata().unwrap().blocks();
    let list = ranges(&[(600, 3, 0)]);
    assert_eq!(request(&mut guest, WRITE_ZEROES, 0, &list, 0).0, OK);
    assert_eq!(file.metadata().unwrap().blocks(), after);
    assert_eq!(read(&mut guest, 600, 2048)[..], [[0; 1536].as_slice(), &[0x77; 512]].concat());
    assert_nothing_beyond(&file);
}

#[test]
fn unknown_and_short_requests_are_refused() {
    let (mut guest, _) = stored(false);
    assert_eq!(request(&mut guest, 99, 0, &[], 512).0, UNSUPP);
    let (status, _, name) = request(&mut guest, GET_ID, 0, &[], 20);
    assert_eq!((status, &name[..]), (OK, &b"supermachine-volume\0"[..]));
    assert_eq!(request(&mut guest, GET_ID, 0, &[], 8).0, IOERR);
    let (from, status) = (guest.place(&[0; 15]), guest.place(&[0xff]));
    guest.add(0, &[(from, 15, false), (status, 1, true)]);
    guest.notify(0);
    until("it is answered", || guest.take_used(0).is_some());
    assert_eq!(guest.load(status, 1), [IOERR]);
}

#[test]
fn request_longer_than_the_limit_fails_without_a_thread() {
    let (mut guest, file) = stored(false);
    let status = guest.place(&[0xff]);
    let piece = (0x20_0000, 1 << 20, false);
    guest.add(0, &[piece, piece, piece, piece, piece, (status, 1, true)]);
    guest.notify(0);
    assert!(guest.take_used(0).is_some());
    assert_eq!(guest.load(status, 1), [IOERR]);
    assert_nothing_beyond(&file);
}

#[test]
fn more_requests_than_may_be_in_flight_are_all_answered() {
    let (mut guest, file) = stored(false);
    for n in 0..64_u64 {
        let mut request = OUT.to_le_bytes().to_vec();
        request.extend([0; 4]);
        request.extend((n * 8).to_le_bytes());
        request.extend([u8::try_from(n).unwrap(); 4096]);
        let (from, status) = (guest.place(&request), guest.place(&[0xff]));
        guest.add(0, &[(from, request.len(), false), (status, 1, true)]);
    }
    guest.notify(0);
    let mut answered = 0;
    until("all are answered", || {
        answered += usize::from(guest.take_used(0).is_some());
        answered == 64
    });
    for n in 0..64_u64 {
        assert_eq!(bytes_at(&file, n * 4096, 4096), [u8::try_from(n).unwrap(); 4096]);
    }
    until("it is quiet", || freeze(&guest.events, &guest.slot).is_some());
}

#[test]
fn error_of_the_host_fails_the_request_and_nothing_else() {
    let file = File::open("/dev/zero").unwrap();
    let mut guest = Guest::storing(&state(), VolumeDisk::new(file, SECTORS * 512, false));
    guest.bring_up();
    // It is not open for writing.
    assert_eq!(request(&mut guest, OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(request(&mut guest, DISCARD, 0, &ranges(&[(0, 8, 0)]), 0).0, IOERR);
    assert_eq!(request(&mut guest, IN, 0, &[], 512).0, OK);
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let mut guest = Guest::storing(&state(), VolumeDisk::new(full, SECTORS * 512, false));
    guest.bring_up();
    assert_eq!(request(&mut guest, OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(request(&mut guest, IN, 0, &[], 512).0, OK);
}

#[test]
fn read_only_disk_keeps_changes_in_memory() {
    let (mut guest, file) = stored(true);
    assert_eq!(request(&mut guest, OUT, 7, &[1; 1024], 0).0, OK);
    assert_eq!(request(&mut guest, FLUSH, 0, &[], 0).0, OK);
    let expected = [[0x77; 512].as_slice(), &[1; 1024], &[0x77; 512]].concat();
    assert_eq!(read(&mut guest, 6, 2048), expected);
    assert_eq!(read(&mut guest, 8, 512), [1; 512]);
    assert_eq!(read(&mut guest, 9, 512), [0x77; 512]);
    assert_eq!(request(&mut guest, DISCARD, 0, &ranges(&[(0, 64, 0)]), 0).0, OK);
    assert_eq!(request(&mut guest, WRITE_ZEROES, 0, &ranges(&[(0, 64, 0)]), 0).0, UNSUPP);
    assert_eq!(read(&mut guest, 8, 512), [1; 512]);
    let length = usize::try_from(SECTORS * 512).unwrap();
    assert!(bytes_at(&file, 0, length).iter().all(|byte| *byte == 0x77));
}

#[test]
fn read_only_disk_keeps_no_more_changes_than_its_limit() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(256 << 20).unwrap();
    let mut guest = Guest::storing(&state(), VolumeDisk::new(file, 256 << 20, true));
    guest.bring_up();
    let piece = vec![9; 1 << 20];
    let status = |guest: &mut Guest, mib: u64| {
        guest.forget_buffers();
        request(guest, OUT, mib << 11, &piece, 0).0
    };
    assert!((0..64).all(|mib| status(&mut guest, mib) == OK));
    assert_eq!(status(&mut guest, 64), IOERR);
    assert_eq!(status(&mut guest, 3), OK);
}

#[test]
fn disk_of_a_snapshot_fails_requests_until_its_driver_resets_it() {
    let (guest, _) = stored(false);
    until("it is quiet", || freeze(&guest.events, &guest.slot).is_some());
    let captured = guest.slot.state();
    let formats::Slot::Volume(_, volume) = &captured else { panic!("another device") };
    assert_eq!((&*volume.name, &*volume.target), ("data", "/data"));
    let file = file();
    let disk = VolumeDisk::new(file.try_clone().unwrap(), SECTORS * 512, false);
    let mut restored = Guest::restored(&guest, &captured, disk);
    assert_eq!(request(&mut restored, OUT, 0, &[1; 512], 0).0, IOERR);
    assert_eq!(request(&mut restored, IN, 0, &[], 512).0, IOERR);
    assert_eq!(request(&mut restored, FLUSH, 0, &[], 0).0, IOERR);
    assert_eq!(bytes_at(&file, 0, 512), [0x77; 512]);
    restored.bring_up();
    assert_eq!(request(&mut restored, OUT, 0, &[1; 512], 0).0, OK);
    assert_eq!(bytes_at(&file, 0, 512), [1; 512]);
}

#[test]
fn volume_that_is_not_given_is_an_error_that_names_it() {
    let error = refusal(&state(), &[]);
    assert!(error.contains("\"data\"") && error.contains("\"/data\""), "{error}");
    assert!(refusal(&fresh_volume("", "/tmp"), &[]).contains("a disk at \"/tmp\""));
}

#[test]
fn driver_that_does_not_flush_gets_no_disk() {
    let guest = Guest::storing(&state(), VolumeDisk::new(file(), 4096, false));
    for value in [0, 1, 3] {
        guest.set(0x70, value);
    }
    // Version 1 alone.
    guest.set(0x24, 1);
    guest.set(0x20, 1);
    guest.set(0x70, 0xb);
    assert_eq!(guest.get(0x70) & 8, 0);
}

#[test]
fn driver_that_breaks_a_ring_stops_the_device_until_a_reset() {
    for (name, build) in HOSTILE_CHAINS {
        let (mut guest, file) = stored(false);
        build(&mut guest, 0);
        guest.notify(0);
        until(name, || guest.is_broken());
        guest.bring_up();
        assert_eq!(read(&mut guest, 0, 512), [0x77; 512], "{name}");
        assert_nothing_beyond(&file);
    }
}
