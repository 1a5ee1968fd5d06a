//! What every system says of a file and of a file system.

/// The bits of a mode that say what a file is, the same on every system.
pub(crate) const FILE_TYPE: u32 = 0o170_000;
pub(crate) const REGULAR: u32 = 0o100_000;
pub(crate) const FOLDER: u32 = 0o040_000;
pub(crate) const PIPE: u32 = 0o010_000;
pub(crate) const SOCKET: u32 = 0o140_000;

/// The attributes of a file. Times are seconds and nanoseconds, devices a major and a minor number.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) block_size: u32,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    /// The device that has it.
    pub(crate) home: (u32, u32),
    /// The device that it is.
    pub(crate) device: (u32, u32),
    pub(crate) accessed: (i64, u32),
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
    /// Zero where it is not known, or may change.
    pub(crate) born: (i64, u32),
}

impl Status {
    /// The bits of the mode that say what it is.
    pub(crate) fn kind(&self) -> u32 {
        self.mode & FILE_TYPE
    }
}

/// What identifies a file while it exists, and tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    home: (u32, u32),
    inode: u64,
    kind: u32,
    born: (i64, u32),
}

impl FileId {
    pub(crate) fn of(status: &Status) -> Self {
        Self { home: status.home, inode: status.inode, kind: status.kind(), born: status.born }
    }
}

/// The sizes of a file system. Blocks are of `fragment_size` bytes.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    /// Those that users without rights may take.
    pub(crate) available_blocks: u64,
    pub(crate) files: u64,
    pub(crate) free_files: u64,
    pub(crate) block_size: u64,
    pub(crate) fragment_size: u64,
    pub(crate) longest_name: u64,
}
