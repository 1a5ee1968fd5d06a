//! Sealed files: memory that processes share, and that nobody can change any more.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SEALS: libc::c_int =
    libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;

/// A new, empty file in memory, without a name.
///
/// # Errors
/// The host has no descriptors left.
pub(crate) fn memory_file() -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"supermachine".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Fixes size and content of a file in memory for good.
///
/// # Errors
/// The file is mapped for writing, or not in memory.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    // SAFETY: the call takes flags by value and touches no memory.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a file, which another process may have made, is sealed and in ordinary memory. Reading
/// from a mapping of one never fails, as it could with huge pages or a file that shrinks.
pub(crate) fn is_sealed(file: &File) -> bool {
    // SAFETY: the call touches no memory.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel writes one `statfs`, for which there is room.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) };
    if seals < 0 || result != 0 {
        return false;
    }
    // SAFETY: the call has succeeded, and so has filled it in.
    let found = unsafe { found.assume_init() };
    seals & SEALS == SEALS && found.f_type == libc::TMPFS_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_sealed_memory_counts_as_sealed() {
        let mut file = memory_file().unwrap();
        file.write_all(b"content").unwrap();
        assert!(!is_sealed(&file));
        seal(&file).unwrap();
        assert!(is_sealed(&file));
        assert!(file.set_len(3).is_err() && file.set_len(8).is_err());
        assert!(file.write_all(b"more").is_err());
        assert!(!is_sealed(&tempfile::tempfile().unwrap()));
        assert!(!is_sealed(&File::open("/dev/zero").unwrap()));
    }
}
