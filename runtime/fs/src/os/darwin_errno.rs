//! The numbers that macOS has for errors, and those that a guest's Linux has for the same. Compiled for tests
//! elsewhere too: it is arithmetic.

/// `EIO` of Linux: what a guest gets for an error that its system does not know.
const OTHER: i32 = 5;

/// Linux's number of an error of macOS.
pub(super) const fn linux_number(darwin: i32) -> i32 {
    match darwin {
        11 => 35,         // EDEADLK
        1..=34 => darwin, // EPERM to ERANGE, as ever in Unix
        35 => 11,         // EAGAIN
        36 => 115,        // EINPROGRESS
        37 => 114,        // EALREADY
        38 => 88,         // ENOTSOCK
        // ENOTSUP, EOPNOTSUPP: one in Linux
        45 | 102 => 95,
        50 => 100,     // ENETDOWN
        51 => 101,     // ENETUNREACH
        53 => 103,     // ECONNABORTED
        54 => 104,     // ECONNRESET
        55 => 105,     // ENOBUFS
        57 => 107,     // ENOTCONN
        60 => 110,     // ETIMEDOUT
        61 => 111,     // ECONNREFUSED
        62 => 40,      // ELOOP
        63 => 36,      // ENAMETOOLONG
        64 => 112,     // EHOSTDOWN
        65 => 113,     // EHOSTUNREACH
        66 => 39,      // ENOTEMPTY
        68 => 87,      // EUSERS
        69 => 122,     // EDQUOT
        70 => 116,     // ESTALE
        71 => 66,      // EREMOTE
        77 => 37,      // ENOLCK
        78 => 38,      // ENOSYS
        79 => 22,      // EFTYPE: EINVAL
        80 | 81 => 13, // EAUTH, ENEEDAUTH: EACCES
        84 => 75,      // EOVERFLOW
        89 => 125,     // ECANCELED
        90 => 43,      // EIDRM
        92 => 84,      // EILSEQ
        // ENOATTR, ENODATA: one in Linux
        93 | 96 => 61,
        94 => 74,   // EBADMSG
        95 => 72,   // EMULTIHOP
        97 => 67,   // ENOLINK
        100 => 71,  // EPROTO
        101 => 62,  // ETIME
        104 => 131, // ENOTRECOVERABLE
        105 => 130, // EOWNERDEAD
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::linux_number;

    /// macOS's numbers, as its `sys/errno.h` has them, and what Linux calls the errors.
    #[rustfmt::skip]
    const PAIRS: [(i32, Errno); 47] = [
        (1, Errno::PERM), (2, Errno::NOENT), (4, Errno::INTR), (5, Errno::IO), (7, Errno::TOOBIG),
        (9, Errno::BADF), (11, Errno::DEADLK), (12, Errno::NOMEM), (13, Errno::ACCESS),
        (16, Errno::BUSY), (17, Errno::EXIST), (18, Errno::XDEV), (20, Errno::NOTDIR),
        (21, Errno::ISDIR), (22, Errno::INVAL), (23, Errno::NFILE), (24, Errno::MFILE),
        (26, Errno::TXTBSY), (27, Errno::FBIG), (28, Errno::NOSPC), (29, Errno::SPIPE),
        (30, Errno::ROFS), (31, Errno::MLINK), (32, Errno::PIPE), (34, Errno::RANGE),
        (35, Errno::AGAIN), (45, Errno::OPNOTSUPP), (60, Errno::TIMEDOUT), (62, Errno::LOOP),
        (63, Errno::NAMETOOLONG), (64, Errno::HOSTDOWN), (66, Errno::NOTEMPTY), (69, Errno::DQUOT),
        (70, Errno::STALE), (71, Errno::REMOTE), (77, Errno::NOLCK), (78, Errno::NOSYS),
        (79, Errno::INVAL), (84, Errno::OVERFLOW), (89, Errno::CANCELED), (92, Errno::ILSEQ),
        (93, Errno::NODATA), (94, Errno::BADMSG), (96, Errno::NODATA), (97, Errno::NOLINK),
        (100, Errno::PROTO), (102, Errno::OPNOTSUPP),
    ];

    #[test]
    #[cfg_attr(target_os = "macos", ignore = "the names have macOS's numbers there")]
    fn error_of_macos_has_the_number_of_its_name_in_linux() {
        for (darwin, errno) in PAIRS {
            assert_eq!(linux_number(darwin), errno.raw_os_error(), "{darwin} {errno:?}");
        }
    }

    #[test]
    fn error_that_linux_does_not_have_is_one_of_input_and_output() {
        for darwin in [i32::MIN, -1, 0, 67, 72, 85, 103, 106, 107, i32::MAX] {
            assert_eq!(linux_number(darwin), 5, "{darwin}");
        }
    }
}
