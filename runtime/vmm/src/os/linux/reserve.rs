//! Room on disk for files that are mapped.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// How many times the size of a file must be free for its holes to be left as they are.
const PLENTY: u64 = 4;

/// Makes sure that no page of a file lacks room when a mapping of it is used. The file's content is
/// unchanged.
///
/// On a disk, holes read as zeros and take no room. On a tmpfs, each page of a hole that a mapping touches
/// takes room, and where there is none, the process gets a signal and a guest cannot continue. So this
/// allocates all of the file there, unless there is plenty of room: most guests touch few of the
/// holes, and what is allocated is the host's memory. The file must be open for writing.
///
/// # Errors
/// There is no room ([`io::ErrorKind::StorageFull`]), or the file cannot be examined.
pub fn reserve_mapped(file: &File) -> io::Result<()> {
    let length = i64::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let Some(room) = room_for_holes(file)? else { return Ok(()) };
    if length == 0 || room / PLENTY >= length.unsigned_abs() {
        return Ok(());
    }
    loop {
        // SAFETY: the descriptor is open; allocating changes no content.
        match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } {
            0 => return Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// The free bytes of the file system, if a mapping's first access to a hole takes some of them.
fn room_for_holes(file: &File) -> io::Result<Option<u64>> {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and the kernel fills in one `statfs`.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so the kernel has filled it in.
    let found = unsafe { found.assume_init() };
    // Without blocks, its size has no limit.
    let is_limited_tmpfs = found.f_type == libc::TMPFS_MAGIC && found.f_blocks > 0;
    let block = u64::try_from(found.f_bsize).unwrap_or_default();
    Ok(is_limited_tmpfs.then(|| found.f_bavail.saturating_mul(block)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use supermachine_test_support::small_disk::with_small_disk;

    #[test]
    fn holes_of_a_tmpfs_are_allocated_or_refused() {
        let test = "os::linux::reserve::tests::holes_of_a_tmpfs_are_allocated_or_refused";
        with_small_disk(1 << 20, test, |disk| {
            let path = disk.dir().join("fits");
            let file = File::create_new(&path).unwrap();
            file.set_len(512 << 10).unwrap();
            file.write_all_at(b"content", 4096).unwrap();
            assert!(file.metadata().unwrap().blocks() * 512 <= 8192);
            reserve_mapped(&file).unwrap();
            assert_eq!(file.metadata().unwrap().blocks() * 512, 512 << 10);
            assert_eq!(std::fs::read(&path).unwrap()[4096..4103], *b"content");
            let large = File::create_new(disk.dir().join("large")).unwrap();
            large.set_len(768 << 10).unwrap();
            let error = reserve_mapped(&large).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            // A refused reservation keeps nothing.
            assert_eq!(large.metadata().unwrap().blocks(), 0);
            drop(file);
            std::fs::remove_file(path).unwrap();
            reserve_mapped(&large).unwrap();
            // With plenty of room, holes stay holes.
            disk.resize(8 << 20);
            let small = File::create_new(disk.dir().join("small")).unwrap();
            small.set_len(1 << 20).unwrap();
            reserve_mapped(&small).unwrap();
            assert_eq!(small.metadata().unwrap().blocks(), 0);
        });
    }

    #[test]
    fn holes_of_a_disk_stay_holes() {
        // The build's folder is on a disk.
        let dir = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let file = tempfile::tempfile_in(dir).unwrap();
        file.set_len(1 << 40).unwrap();
        reserve_mapped(&file).unwrap();
        assert!(file.metadata().unwrap().blocks() < 1 << 10);
    }
}
