//! Settings of the container: a read-only root, file systems in memory, volumes, limits of processes.

use alloc::string::String;
use alloc::vec::Vec;

use super::field::{put_strings, read_path};
use super::frame::{MAX_NAME, MAX_PARTS};
use crate::codec::{DecodeError, Put, Reader};

/// What a container's processes see besides the image's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether programs cannot write to the root file system.
    pub read_only: bool,
    /// File systems in memory, to mount in this order.
    pub tmpfs: Vec<Tmpfs>,
    /// The size of `/dev/shm` in bytes; `None` is the agent's default.
    pub shm_size: Option<u64>,
    /// The limits of every process; a resource without one has the agent's default.
    pub ulimits: Vec<Ulimit>,
    /// The image's volumes: directories that are writable whatever the root is, by ascending paths. A
    /// missing one is created. A path in `tmpfs` is none.
    pub volumes: Vec<Vec<u8>>,
}

/// A file system in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it is mounted: an absolute path. A missing directory is created.
    pub path: Vec<u8>,
    /// The flags of mount(2), of [`Tmpfs::FLAGS`].
    pub flags: u32,
    /// The options of the file system, separated by commas.
    pub data: String,
}

impl Tmpfs {
    /// `MS_RDONLY`.
    pub const READ_ONLY: u32 = 1;
    /// `MS_NOSUID`.
    pub const NO_SUID: u32 = 2;
    /// `MS_NODEV`.
    pub const NO_DEV: u32 = 4;
    /// `MS_NOEXEC`.
    pub const NO_EXEC: u32 = 8;
    /// `MS_SYNCHRONOUS`.
    pub const SYNCHRONOUS: u32 = 16;
    /// `MS_DIRSYNC`.
    pub const DIR_SYNC: u32 = 128;
    /// `MS_NOATIME`.
    pub const NO_ATIME: u32 = 1024;
    /// `MS_NODIRATIME`.
    pub const NO_DIR_ATIME: u32 = 2048;
    /// All flags that may be set.
    pub const FLAGS: u32 = Self::READ_ONLY
        | Self::NO_SUID
        | Self::NO_DEV
        | Self::NO_EXEC
        | Self::SYNCHRONOUS
        | Self::DIR_SYNC
        | Self::NO_ATIME
        | Self::NO_DIR_ATIME;
}

/// A limit of a process's resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ulimit {
    /// The resource's number, as in `RLIMIT_NOFILE`; below [`Ulimit::RESOURCES`].
    pub resource: u8,
    /// The limit that holds; at most the hard one.
    pub soft: u64,
    /// The limit up to which the process may raise the soft one.
    pub hard: u64,
}

impl Ulimit {
    /// The limit of a resource without one.
    pub const UNLIMITED: u64 = u64::MAX;
    /// The number of resources.
    pub const RESOURCES: u8 = 16;
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &Settings) {
    out.put_bool(settings.read_only);
    out.put_list(&settings.tmpfs, |out, tmpfs| {
        out.put_byte_string(&tmpfs.path);
        out.put_u32(tmpfs.flags);
        out.put_byte_string(tmpfs.data.as_bytes());
    });
    out.put_option(settings.shm_size.as_ref(), |out, size| out.put_u64(*size));
    put_ulimits(out, &settings.ulimits);
    put_strings(out, &settings.volumes);
}

pub(super) fn read_settings(reader: &mut Reader<'_>) -> Result<Settings, DecodeError> {
    Ok(Settings {
        read_only: reader.bool("read only")?,
        tmpfs: reader.list("tmpfs", MAX_PARTS, 12, read_tmpfs)?,
        shm_size: reader.option("shm size", |reader| match reader.u64("shm size")? {
            0 => Err(reader.illegal("shm size", 0)),
            size => Ok(size),
        })?,
        ulimits: read_ulimits(reader)?,
        volumes: reader.list("volumes", MAX_PARTS, 4, |reader| read_path(reader, "volume"))?,
    })
}

fn read_tmpfs(reader: &mut Reader<'_>) -> Result<Tmpfs, DecodeError> {
    let path = read_path(reader, "tmpfs path")?;
    let flags = reader.u32("tmpfs flags")?;
    if flags & !Tmpfs::FLAGS != 0 {
        return Err(reader.illegal("tmpfs flags", flags.into()));
    }
    let data = reader.string("tmpfs data", MAX_NAME)?;
    if data.contains('\0') {
        return Err(reader.illegal("tmpfs data", 0));
    }
    Ok(Tmpfs { path, flags, data })
}

pub(super) fn put_ulimits(out: &mut Vec<u8>, ulimits: &[Ulimit]) {
    out.put_list(ulimits, |out, limit| {
        out.put_u8(limit.resource);
        out.put_u64(limit.soft);
        out.put_u64(limit.hard);
    });
}

pub(super) fn read_ulimits(reader: &mut Reader<'_>) -> Result<Vec<Ulimit>, DecodeError> {
    reader.list("ulimits", MAX_PARTS, 17, |reader| {
        let resource = reader.u8("resource")?;
        if resource >= Ulimit::RESOURCES {
            return Err(reader.illegal("resource", resource.into()));
        }
        let (soft, hard) = (reader.u64("soft limit")?, reader.u64("hard limit")?);
        if soft > hard {
            return Err(reader.illegal("soft limit", soft));
        }
        Ok(Ulimit { resource, soft, hard })
    })
}
