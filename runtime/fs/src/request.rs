//! What a guest asks for, taken apart. A guest is not trusted: no byte is read outside of its request, and
//! a name is one step in a folder.

use std::ffi::CStr;

use rustix::io::Errno;
use supermachine_formats::codec::{DecodeError, Reader};

use crate::abi::{self, operation as code, set};

/// The longest name in a folder.
const MAX_NAME: usize = 255;
/// The longest target of a symbolic link.
const MAX_TARGET: usize = 4095;
/// The most bytes of an extended attribute, as in Linux.
const MAX_VALUE: usize = 64 << 10;
/// The size of an item of a batch.
const FORGET_SIZE: usize = 16;

/// What is in front of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) operation: u32,
    /// The reply has the same.
    pub(crate) unique: u64,
    pub(crate) node: u64,
}

impl Header {
    /// Splits a request; `None` if it has no whole header, or another length than it says.
    pub(crate) fn split(request: &[u8]) -> Option<(Self, &[u8])> {
        let (head, body) = request.split_at_checked(abi::REQUEST_HEADER)?;
        let mut reader = Reader::new(head);
        let length = reader.u32("length").ok()?;
        if usize::try_from(length) != Ok(request.len()) {
            return None;
        }
        let operation = reader.u32("operation").ok()?;
        let (unique, node) = (reader.u64("unique").ok()?, reader.u64("node").ok()?);
        Some((Self { operation, unique, node }, body))
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Keep,
    Now,
    At(i64, u32),
}

/// Attributes to set.
#[derive(Debug, Clone)]
pub(crate) struct SetAttributes {
    pub(crate) handle: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Time,
    pub(crate) modified: Time,
    pub(crate) clears_set_ids: bool,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) flags: u32,
    pub(crate) clears_set_ids: bool,
}

/// Bytes to write.
#[derive(Debug, Clone)]
pub(crate) struct Write<'a> {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    /// Those that the file has in the guest.
    pub(crate) flags: u32,
    pub(crate) is_from_cache: bool,
    pub(crate) clears_set_ids: bool,
    pub(crate) data: &'a [u8],
}

/// A range to copy between two open files.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) from: (u64, u64),
    pub(crate) to: (u64, u64),
    pub(crate) length: u64,
}

/// What a guest asks for.
#[derive(Debug, Clone)]
pub(crate) enum Operation<'a> {
    Init { major: u32, minor: u32, readahead: u32, features: u32 },
    Destroy,
    Lookup { name: &'a CStr },
    Forget { count: u64 },
    ForgetAll(Vec<(u64, u64)>),
    GetAttributes { handle: Option<u64> },
    SetAttributes(SetAttributes),
    ReadLink,
    MakeLink { name: &'a CStr, target: &'a CStr },
    MakeNode { name: &'a CStr, mode: u32 },
    MakeFolder { name: &'a CStr, mode: u32 },
    Unlink { name: &'a CStr },
    RemoveFolder { name: &'a CStr },
    Rename { name: &'a CStr, folder: u64, new_name: &'a CStr, flags: u32 },
    Link { node: u64, name: &'a CStr },
    Open(Open),
    OpenFolder(Open),
    Create { name: &'a CStr, open: Open, mode: u32 },
    MakeUnnamed { open: Open, mode: u32 },
    Read { handle: u64, offset: u64, size: u32 },
    ReadFolder { handle: u64, offset: u64, size: u32 },
    Write(Write<'a>),
    Release { handle: u64 },
    Sync { handle: u64, only_data: bool },
    SyncAll,
    Statistics,
    SetValue { name: &'a CStr, value: &'a [u8], flags: u32 },
    Value { name: &'a CStr, size: u32 },
    ValueNames { size: u32 },
    RemoveValue { name: &'a CStr },
    Allocate { handle: u64, offset: u64, length: u64, mode: u32 },
    Seek { handle: u64, offset: u64, whence: u32 },
    Copy(Copy),
}

impl<'a> Operation<'a> {
    /// Reads what follows the header.
    ///
    /// # Errors
    /// `ENOSYS` for an operation that the server does not have, `EINVAL` for a malformed request,
    /// and what is wrong with a name.
    pub(crate) fn read(operation: u32, body: &'a [u8]) -> Result<Self, Errno> {
        Fields(Reader::new(body)).operation(operation)
    }

    /// Whether it changes anything in the folder.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Open(open) => open.flags & ACCESS_MODE != READ_ONLY || open.flags & TRUNCATE != 0,
            Self::SetAttributes(_)
            | Self::MakeLink { .. }
            | Self::MakeNode { .. }
            | Self::MakeFolder { .. }
            | Self::Unlink { .. }
            | Self::RemoveFolder { .. }
            | Self::Rename { .. }
            | Self::Link { .. }
            | Self::Create { .. }
            | Self::MakeUnnamed { .. }
            | Self::Write(_)
            | Self::SetValue { .. }
            | Self::RemoveValue { .. }
            | Self::Allocate { .. }
            | Self::Copy(_) => true,
            _ => false,
        }
    }
}

/// Flags of `open` as a guest on x86_64 and arm64 has them.
pub(crate) const ACCESS_MODE: u32 = 3;
pub(crate) const READ_ONLY: u32 = 0;
pub(crate) const WRITE_ONLY: u32 = 1;
pub(crate) const READ_WRITE: u32 = 2;
pub(crate) const EXCLUSIVE: u32 = 0o200;
pub(crate) const TRUNCATE: u32 = 0o1000;
pub(crate) const APPEND: u32 = 0o2000;
pub(crate) const DATA_SYNC: u32 = 0o10000;
pub(crate) const SYNC: u32 = 0o4_000_000;

/// Reads the fields of a request.
struct Fields<'a>(Reader<'a>);

impl<'a> Fields<'a> {
    fn operation(mut self, operation: u32) -> Result<Operation<'a>, Errno> {
        Ok(match operation {
            code::INIT => self.init()?,
            code::DESTROY => Operation::Destroy,
            code::FORGET => Operation::Forget { count: self.u64()? },
            code::BATCH_FORGET => Operation::ForgetAll(self.batch()?),
            code::GETATTR => Operation::GetAttributes { handle: self.handle_if_flagged()? },
            code::SETATTR => Operation::SetAttributes(self.attributes()?),
            code::READLINK => Operation::ReadLink,
            code::OPEN => Operation::Open(self.open()?),
            code::OPENDIR => Operation::OpenFolder(self.open()?),
            code::READ => {
                let (handle, offset, size) = self.range()?;
                Operation::Read { handle, offset, size }
            }
            code::READDIR => {
                let (handle, offset, size) = self.range()?;
                Operation::ReadFolder { handle, offset, size }
            }
            code::WRITE => Operation::Write(self.write()?),
            code::STATFS => Operation::Statistics,
            code::RELEASE | code::RELEASEDIR => Operation::Release { handle: self.u64()? },
            code::FSYNC | code::FSYNCDIR => {
                let (handle, flags) = (self.u64()?, self.u32()?);
                Operation::Sync { handle, only_data: flags & abi::FSYNC_DATA != 0 }
            }
            code::SYNCFS => Operation::SyncAll,
            code::FALLOCATE => {
                let (handle, offset, length) = (self.u64()?, self.u64()?, self.u64()?);
                Operation::Allocate { handle, offset, length, mode: self.u32()? }
            }
            code::LSEEK => {
                let (handle, offset) = (self.u64()?, self.u64()?);
                Operation::Seek { handle, offset, whence: self.u32()? }
            }
            code::COPY_FILE_RANGE => Operation::Copy(self.copy()?),
            code::TMPFILE => {
                let (open, mode) = self.create()?;
                Operation::MakeUnnamed { open, mode }
            }
            other => return self.named(other),
        })
    }

    /// The operations on a name.
    fn named(mut self, operation: u32) -> Result<Operation<'a>, Errno> {
        Ok(match operation {
            code::LOOKUP => Operation::Lookup { name: self.name()? },
            code::SYMLINK => {
                Operation::MakeLink { name: self.name()?, target: self.string(MAX_TARGET)? }
            }
            code::MKNOD => {
                let mode = self.u32()?;
                self.skip(12)?;
                Operation::MakeNode { name: self.name()?, mode }
            }
            code::MKDIR => {
                let mode = self.u32()?;
                self.skip(4)?;
                Operation::MakeFolder { name: self.name()?, mode }
            }
            code::UNLINK => Operation::Unlink { name: self.name()? },
            code::RMDIR => Operation::RemoveFolder { name: self.name()? },
            code::RENAME => {
                let folder = self.u64()?;
                let (name, new_name) = (self.name()?, self.name()?);
                Operation::Rename { name, folder, new_name, flags: 0 }
            }
            code::RENAME2 => {
                let (folder, flags) = (self.u64()?, self.u32()?);
                self.skip(4)?;
                let (name, new_name) = (self.name()?, self.name()?);
                Operation::Rename { name, folder, new_name, flags }
            }
            code::LINK => Operation::Link { node: self.u64()?, name: self.name()? },
            code::CREATE => {
                let (open, mode) = self.create()?;
                Operation::Create { name: self.name()?, open, mode }
            }
            code::SETXATTR => {
                let (size, flags) = (self.u32()?, self.u32()?);
                let name = self.string(MAX_NAME)?;
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if size > MAX_VALUE {
                    return Err(Errno::TOOBIG);
                }
                let value = self.0.bytes("value", size).map_err(malformed)?;
                Operation::SetValue { name, value, flags }
            }
            code::GETXATTR => {
                let size = self.u32()?;
                self.skip(4)?;
                Operation::Value { name: self.string(MAX_NAME)?, size }
            }
            code::LISTXATTR => Operation::ValueNames { size: self.u32()? },
            code::REMOVEXATTR => Operation::RemoveValue { name: self.string(MAX_NAME)? },
            _ => return Err(Errno::NOSYS),
        })
    }

    fn init(&mut self) -> Result<Operation<'a>, Errno> {
        let (major, minor) = (self.u32()?, self.u32()?);
        // Nothing follows for a version that is too old to be served.
        let (readahead, features) = (self.u32().unwrap_or(0), self.u32().unwrap_or(0));
        Ok(Operation::Init { major, minor, readahead, features })
    }

    fn batch(&mut self) -> Result<Vec<(u64, u64)>, Errno> {
        let count = self.0.count("count", usize::MAX, 0).map_err(malformed)?;
        self.skip(4)?;
        if count.saturating_mul(FORGET_SIZE) > self.0.remaining() {
            return Err(Errno::INVAL);
        }
        (0..count).map(|_| Ok((self.u64()?, self.u64()?))).collect()
    }

    fn handle_if_flagged(&mut self) -> Result<Option<u64>, Errno> {
        let flags = self.u32()?;
        self.skip(4)?;
        let handle = self.u64()?;
        Ok((flags & abi::GETATTR_HANDLE != 0).then_some(handle))
    }

    fn attributes(&mut self) -> Result<SetAttributes, Errno> {
        let valid = self.u32()?;
        self.skip(4)?;
        let (handle, size) = (self.u64()?, self.u64()?);
        self.skip(8)?;
        let (accessed, modified, _changed) = (self.u64()?, self.u64()?, self.u64()?);
        let (accessed_ns, modified_ns, _changed_ns) = (self.u32()?, self.u32()?, self.u32()?);
        let mode = self.u32()?;
        self.skip(4)?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let is_set = |bit| valid & bit != 0;
        let time = |is_set: bool, is_now: bool, seconds: u64, nanoseconds| match (is_set, is_now) {
            (false, _) => Time::Keep,
            (true, true) => Time::Now,
            (true, false) => Time::At(seconds.cast_signed(), nanoseconds),
        };
        Ok(SetAttributes {
            handle: is_set(set::HANDLE).then_some(handle),
            mode: is_set(set::MODE).then_some(mode),
            uid: is_set(set::UID).then_some(uid),
            gid: is_set(set::GID).then_some(gid),
            size: is_set(set::SIZE).then_some(size),
            accessed: time(is_set(set::ATIME), is_set(set::ATIME_NOW), accessed, accessed_ns),
            modified: time(is_set(set::MTIME), is_set(set::MTIME_NOW), modified, modified_ns),
            clears_set_ids: is_set(set::KILL_SUIDGID),
        })
    }

    fn open(&mut self) -> Result<Open, Errno> {
        let (flags, how) = (self.u32()?, self.u32()?);
        Ok(Open { flags, clears_set_ids: how & abi::OPEN_KILL_SUIDGID != 0 })
    }

    fn create(&mut self) -> Result<(Open, u32), Errno> {
        let (flags, mode, _umask, how) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        Ok((Open { flags, clears_set_ids: how & abi::OPEN_KILL_SUIDGID != 0 }, mode))
    }

    fn range(&mut self) -> Result<(u64, u64, u32), Errno> {
        Ok((self.u64()?, self.u64()?, self.u32()?))
    }

    fn write(&mut self) -> Result<Write<'a>, Errno> {
        let (handle, offset, size) = self.range()?;
        let how = self.u32()?;
        self.skip(8)?;
        let flags = self.u32()?;
        self.skip(4)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Write {
            handle,
            offset,
            flags,
            is_from_cache: how & abi::WRITE_CACHE != 0,
            clears_set_ids: how & abi::WRITE_KILL_SUIDGID != 0,
            data: self.0.bytes("data", size).map_err(malformed)?,
        })
    }

    fn copy(&mut self) -> Result<Copy, Errno> {
        let from = (self.u64()?, self.u64()?);
        self.skip(8)?;
        let to = (self.u64()?, self.u64()?);
        Ok(Copy { from, to, length: self.u64()? })
    }

    /// A name that is one step in a folder.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string(MAX_NAME)?;
        let bytes = name.to_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }

    fn string(&mut self, most: usize) -> Result<&'a CStr, Errno> {
        let rest = self.0.clone().bytes("string", self.0.remaining()).map_err(malformed)?;
        let string = CStr::from_bytes_until_nul(rest).map_err(|_| Errno::INVAL)?;
        self.skip(string.count_bytes() + 1)?;
        if string.count_bytes() > most { Err(Errno::NAMETOOLONG) } else { Ok(string) }
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.0.u32("field").map_err(malformed)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.0.u64("field").map_err(malformed)
    }

    fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.0.bytes("padding", count).map(drop).map_err(malformed)
    }
}

fn malformed(_: DecodeError) -> Errno {
    Errno::INVAL
}
