//! What a guest's flags are on the host: the numbers differ from system to system. Flags that are the matter
//! of the guest's kernel alone, such as those for links and direct access, are left out.

use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::request::{
    ACCESS_MODE, DATA_SYNC, EXCLUSIVE, READ_ONLY, READ_WRITE, SYNC, TRUNCATE, WRITE_ONLY,
};

/// `renameat2`: into a free place only.
const NO_REPLACE: u32 = 1;
/// `renameat2`: in exchange for what is there.
const EXCHANGE: u32 = 2;
/// `setxattr`: only a new value.
const CREATE_VALUE: u32 = 1;
/// `setxattr`: only instead of a value.
const REPLACE_VALUE: u32 = 2;

/// Whether a file is opened for reading, writing or both.
pub(crate) fn access(flags: u32) -> Result<OFlags, Errno> {
    match flags & ACCESS_MODE {
        READ_ONLY => Ok(OFlags::RDONLY),
        WRITE_ONLY => Ok(OFlags::WRONLY),
        READ_WRITE => Ok(OFlags::RDWR),
        _ => Err(Errno::INVAL),
    }
}

/// How a file that exists is opened.
pub(crate) fn opening(flags: u32) -> Result<OFlags, Errno> {
    let mut how = access(flags)?;
    if flags & TRUNCATE != 0 {
        how |= OFlags::TRUNC;
    }
    if flags & SYNC == SYNC {
        how |= OFlags::SYNC;
    } else if flags & DATA_SYNC != 0 {
        how |= OFlags::DSYNC;
    }
    Ok(how)
}

/// The flags of the guest that matter after a file is open.
pub(crate) fn kept(flags: u32) -> u32 {
    flags & !(TRUNCATE | EXCLUSIVE)
}

/// What a move may be.
pub(crate) fn moving(flags: u32) -> Result<RenameFlags, Errno> {
    let known = [(NO_REPLACE, RenameFlags::NOREPLACE), (EXCHANGE, RenameFlags::EXCHANGE)];
    translated(flags, known)
}

/// How an extended attribute is set.
pub(crate) fn setting(flags: u32) -> Result<XattrFlags, Errno> {
    let known = [(CREATE_VALUE, XattrFlags::CREATE), (REPLACE_VALUE, XattrFlags::REPLACE)];
    translated(flags, known)
}

/// The host's flags for the guest's, all of which must be known.
fn translated<T: std::iter::FromIterator<T>>(flags: u32, known: [(u32, T); 2]) -> Result<T, Errno> {
    if known.iter().fold(flags, |rest, (flag, _)| rest & !flag) != 0 {
        return Err(Errno::INVAL);
    }
    Ok(known.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, host)| host).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::APPEND;

    /// `O_CREAT`, `O_NOCTTY`, `O_NONBLOCK`, `O_LARGEFILE`, `O_DIRECTORY`, `O_NOFOLLOW` and `O_DIRECT` of both
    /// architectures, `O_NOATIME`, `O_CLOEXEC`.
    const OF_THE_GUEST: [u32; 10] = [
        0o100, 0o400, 0o4000, 0o10_0000, 0o20_0000, 0o40_0000, 0o4_0000, 0o100_0000, 0o200_0000,
        APPEND,
    ];

    #[test]
    fn flags_of_open_have_the_names_of_the_host() {
        for (guest, host) in [
            (0, OFlags::RDONLY),
            (0o1, OFlags::WRONLY),
            (0o2, OFlags::RDWR),
            (0o1001, OFlags::WRONLY | OFlags::TRUNC),
            (0o10_002, OFlags::RDWR | OFlags::DSYNC),
            (0o4_010_002, OFlags::RDWR | OFlags::SYNC),
        ] {
            assert_eq!(opening(guest), Ok(host), "{guest:o}");
        }
        assert_eq!(opening(3), Err(Errno::INVAL));
    }

    #[test]
    fn flags_of_the_guests_kernel_do_not_reach_the_host() {
        for flag in OF_THE_GUEST {
            assert_eq!(opening(flag), Ok(OFlags::RDONLY), "{flag:o}");
            assert_eq!(access(flag | 2), Ok(OFlags::RDWR), "{flag:o}");
        }
        assert_eq!(kept(0o3202), 0o2002);
    }

    #[test]
    fn flags_of_moves_and_values_have_the_names_of_the_host() {
        assert_eq!(moving(0), Ok(RenameFlags::empty()));
        assert_eq!(moving(1), Ok(RenameFlags::NOREPLACE));
        assert_eq!(moving(2), Ok(RenameFlags::EXCHANGE));
        assert_eq!(moving(3), Ok(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE));
        assert_eq!(setting(0), Ok(XattrFlags::empty()));
        assert_eq!(setting(1), Ok(XattrFlags::CREATE));
        assert_eq!(setting(2), Ok(XattrFlags::REPLACE));
        for flag in [4, 5, 1 << 31] {
            assert_eq!(moving(flag), Err(Errno::INVAL), "{flag}");
            assert_eq!(setting(flag), Err(Errno::INVAL), "{flag}");
        }
    }
}
