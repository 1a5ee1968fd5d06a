//! What a guest's numbers are here. The compiler checks them against those of the system's headers.

use rustix::fs::{Mode, RawMode};
use rustix::io::Errno;

use crate::os::darwin_errno::linux_number;

/// The bits of a mode that are not the file's type.
const PERMISSIONS: u32 = 0o7777;

/// The number that a guest knows an error by.
pub(crate) fn guest_errno(errno: Errno) -> i32 {
    linux_number(errno.raw_os_error())
}

/// Permissions of a guest, which have the same bits.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(RawMode::try_from(bits & PERMISSIONS).unwrap_or(0))
}

const fn is(errno: Errno, linux: i32) -> bool {
    linux_number(errno.raw_os_error()) == linux
}

const _: () = assert!(is(Errno::NOENT, 2) && is(Errno::EXIST, 17) && is(Errno::NOTDIR, 20));
const _: () = assert!(is(Errno::DEADLK, 35) && is(Errno::AGAIN, 11) && is(Errno::NAMETOOLONG, 36));
const _: () = assert!(is(Errno::NOTEMPTY, 39) && is(Errno::LOOP, 40) && is(Errno::NOSYS, 38));
const _: () = assert!(is(Errno::NODATA, 61) && is(Errno::OVERFLOW, 75) && is(Errno::ILSEQ, 84));
const _: () = assert!(is(Errno::OPNOTSUPP, 95) && is(Errno::NOTSUP, 95) && is(Errno::STALE, 116));
const _: () = assert!(is(Errno::DQUOT, 122) && is(Errno::PROTO, 71) && is(Errno::NOATTR, 61));
