//! Requests of a guest to a volume, as its disk serves them; no guest is trusted.
//!
//! The first byte says whether the disk is read-only, the next two how much room an answer has; the rest is the
//! request.

use std::fs::File;
use std::os::unix::fs::FileExt;

use supermachine_vmm::VolumeDisk;

/// The disk's size. Its file is longer.
const SIZE: u64 = 1 << 20;
/// The file's bytes behind the disk.
const BEYOND: [u8; 4096] = [0x77; 4096];

/// Serves a request. Returns whether it succeeds.
///
/// # Panics
/// The answer has another length than its room, or something behind the disk has changed.
pub fn run(data: &[u8]) -> bool {
    let Some(([kind, low, high], request)) = data.split_first_chunk() else { return false };
    let Ok(file) = file() else { return false };
    let Ok(disk) = file.try_clone().map(|file| VolumeDisk::new(file, SIZE, kind & 1 == 1)) else {
        return false;
    };
    let room = usize::from(u16::from_le_bytes([*low, *high]));
    let answer = disk.answer(request, room);
    assert_eq!(answer.len(), room, "the answer fills its room");
    let mut beyond = [0; BEYOND.len()];
    let length = file.metadata().map(|status| status.len()).ok();
    assert_eq!(length, Some(SIZE + BEYOND.len() as u64), "the file has its length");
    let read = file.read_exact_at(&mut beyond, SIZE);
    assert!(read.is_ok() && beyond == BEYOND, "nothing behind the disk changes");
    answer.last() == Some(&0)
}

fn file() -> std::io::Result<File> {
    let file = tempfile::tempfile()?;
    file.write_all_at(&BEYOND, SIZE)?;
    Ok(file)
}

/// A request of each kind.
pub fn samples() -> Vec<Vec<u8>> {
    let range = |sector: u64, count: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let last = SIZE / 512 - 1;
    let sample = |room: u16, kind: u32, sector: u64, body: &[u8]| {
        let head = [&[0][..], &room.to_le_bytes(), &kind.to_le_bytes(), &[0; 4]].concat();
        [&head[..], &sector.to_le_bytes(), body].concat()
    };
    vec![
        sample(513, 0, last, &[]),
        sample(1, 1, last, &[1; 512]),
        sample(1, 4, 0, &[]),
        sample(21, 8, 0, &[]),
        sample(1, 11, 0, &[range(0, 8, 0), range(last, 1, 0)].concat()),
        sample(1, 13, 0, &range(last, 1, 1)),
        sample(1, 13, 0, &range(0, 3, 0)),
    ]
}
