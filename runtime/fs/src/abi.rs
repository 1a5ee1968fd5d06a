//! The numbers of the FUSE protocol, version 7, as Linux's `include/uapi/linux/fuse.h` has them.

/// The version that a guest must speak.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version of which the server knows something.
pub(crate) const NEWEST_MINOR: u32 = 38;
/// The oldest minor version whose messages look as they do here.
pub(crate) const OLDEST_MINOR: u32 = 33;
/// The node of the shared folder itself.
pub(crate) const ROOT: u64 = 1;
/// Length, operation, ids.
pub(crate) const REQUEST_HEADER: usize = 40;
/// Length, error, id.
pub(crate) const REPLY_HEADER: usize = 16;
/// The most bytes of one read or write.
pub(crate) const MAX_DATA: u32 = 1 << 20;
/// The pages that hold these.
pub(crate) const MAX_PAGES: u16 = 256;

/// What a request asks for.
pub(crate) mod operation {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
}

/// What guest and server agree on at the start.
pub(crate) mod feature {
    /// Several reads at once.
    pub(crate) const ASYNC_READ: u32 = 1;
    /// Opening truncates.
    pub(crate) const ATOMIC_O_TRUNC: u32 = 1 << 3;
    /// Writes of more than a page.
    pub(crate) const BIG_WRITES: u32 = 1 << 5;
    /// Several direct reads and writes at once.
    pub(crate) const ASYNC_DIO: u32 = 1 << 15;
    /// Several operations in one folder at once.
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    /// Requests have as many pages as the reply says.
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    /// The server clears set-id bits when a request says so.
    pub(crate) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;

    /// Those that the server wants.
    pub(crate) const WANTED: u32 = ASYNC_READ
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | ASYNC_DIO
        | PARALLEL_DIROPS
        | MAX_PAGES
        | HANDLE_KILLPRIV_V2;
}

/// Which attributes a request sets.
pub(crate) mod set {
    pub(crate) const MODE: u32 = 1;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const HANDLE: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// A request for attributes names a handle.
pub(crate) const GETATTR_HANDLE: u32 = 1;
/// Opening clears set-id bits.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1;
/// The data comes from the guest's page cache.
pub(crate) const WRITE_CACHE: u32 = 1;
/// Writing clears set-id bits.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// Only the data is synced.
pub(crate) const FSYNC_DATA: u32 = 1;
