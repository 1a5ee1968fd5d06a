//! The files of volumes: each an ext4 file system in a sparse file, made from an empty one that is part of
//! this program, and locked while a machine has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::VolumeError;
use super::limits::{MAX_SIZE, MIN_SIZE};

/// An empty file system: runs of what is not zero, each an offset, `u32`, a length, `u16`, and bytes.
/// `cargo xtask empty-disk` makes it.
static EMPTY: &[u8] = include_bytes!("empty.ext4");
/// How often to try to lock a volume that another process has.
const LOCK_ATTEMPTS: u32 = 20;
/// How long to wait between two attempts.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// Blocks of the file system.
const BLOCK: u64 = 4096;

/// Numbers the files that this process makes.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Opens and locks a volume's file. It is made with this size if it is missing. Machines that only read
/// share the lock.
pub(super) fn open(
    path: &Path,
    name: &str,
    size: u64,
    is_read_only: bool,
) -> Result<(File, u64), VolumeError> {
    loop {
        let opened = OpenOptions::new().read(true).write(!is_read_only).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                create(path, size)?;
                continue;
            }
            Err(error) => return Err(VolumeError::file("open", path)(error)),
        };
        let status = file.metadata().map_err(VolumeError::file("read", path))?;
        let not_one = |reason| VolumeError::NotAVolume { path: path.to_owned(), reason };
        if !status.is_file() {
            return Err(not_one("it is not a file"));
        }
        lock_soon(&file, path, name, !is_read_only)?;
        let status = file.metadata().map_err(VolumeError::file("read", path))?;
        if status.nlink() == 0 {
            // It was removed before it was locked.
            continue;
        }
        if status.len() < MIN_SIZE {
            return Err(not_one("it is too short"));
        }
        return Ok((file, status.len()));
    }
}

/// Locks a volume's file as [`lock`] does. One that is only looked at is locked for a moment, and one whose
/// holder was killed until its descriptors are closed: both are waited for.
fn lock_soon(file: &File, path: &Path, name: &str, is_exclusive: bool) -> Result<(), VolumeError> {
    let mut attempts = 0;
    loop {
        match lock(file, path, name, is_exclusive) {
            Err(VolumeError::InUse { .. }) if attempts < LOCK_ATTEMPTS => {
                attempts += 1;
                thread::sleep(LOCK_INTERVAL);
            }
            locked => return locked,
        }
    }
}

/// Locks a volume's file for as long as it is open.
pub(super) fn lock(
    file: &File,
    path: &Path,
    name: &str,
    is_exclusive: bool,
) -> Result<(), VolumeError> {
    let locked = if is_exclusive { file.try_lock() } else { file.try_lock_shared() };
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => VolumeError::InUse { name: name.to_owned() },
        TryLockError::Error(source) => VolumeError::file("lock", path)(source),
    })
}

/// Makes a volume's file, unless there is one. Returns whether it did.
pub(super) fn create(path: &Path, size: u64) -> Result<bool, VolumeError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let (file, scratch) = scratch_file(folder)?;
    let made = fill(&file, &scratch, size).and_then(|()| {
        file.sync_all().map_err(VolumeError::file("sync", &scratch))?;
        match fs::hard_link(&scratch, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(VolumeError::file("create", path)(error)),
        }
    });
    // The first error is the one to report.
    let removed = fs::remove_file(&scratch).map_err(VolumeError::file("remove", &scratch));
    let made = made?;
    removed?;
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(VolumeError::file("sync", folder))?;
    Ok(made)
}

/// A disk without a name, which is gone once nothing has it open.
pub(super) fn unnamed(folder: &Path, size: u64) -> Result<File, VolumeError> {
    fs::create_dir_all(folder).map_err(VolumeError::file("create", folder))?;
    let (file, scratch) = scratch_file(folder)?;
    let filled = fill(&file, &scratch, size);
    fs::remove_file(&scratch).map_err(VolumeError::file("remove", &scratch))?;
    filled.map(|()| file)
}

/// Rounds a size up to whole blocks.
///
/// # Errors
/// It is too small or too large for a file system.
pub(super) fn checked_size(size: u64) -> Result<u64, VolumeError> {
    if (MIN_SIZE..=MAX_SIZE).contains(&size) {
        Ok(size.next_multiple_of(BLOCK))
    } else {
        Err(VolumeError::Size { size })
    }
}

fn scratch_file(folder: &Path) -> Result<(File, PathBuf), VolumeError> {
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{}-{number}.part", process::id()));
        let mut options = OpenOptions::new();
        match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((file, path)),
            // Of an earlier process with this id.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(VolumeError::file("create", &path)(error)),
        }
    }
}

fn fill(file: &File, path: &Path, size: u64) -> Result<(), VolumeError> {
    file.set_len(checked_size(size)?).map_err(VolumeError::file("grow", path))?;
    let mut rest = EMPTY;
    while let Some(([a, b, c, d, e, f], behind)) = rest.split_first_chunk() {
        let offset = u32::from_le_bytes([*a, *b, *c, *d]);
        let length = usize::from(u16::from_le_bytes([*e, *f]));
        let (bytes, behind) = behind.split_at(length.min(behind.len()));
        file.write_all_at(bytes, offset.into()).map_err(VolumeError::file("write", path))?;
        rest = behind;
    }
    Ok(())
}
