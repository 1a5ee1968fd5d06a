//! Files and archives that the host writes or reads, in the container's root.
//!
//! The agent has one thread, so none of this may block: it opens regular files only, and moves one
//! piece at a time. A path may change between pieces.

use alloc::vec::Vec;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::{Failure, StagedFile, WriteFile};

use crate::failure::{OrFailure, failure};
use crate::place::path;
use crate::sys::fd::{self, Fd};
use crate::sys::process::Credentials;
use crate::sys::{Errno, tree};
use crate::tar::{Packer, Unpacker};

/// The mode of a new file, unless another is asked for.
const DEFAULT_MODE: u16 = 0o644;
/// The bits of a mode that say what kind of file it is.
const KIND: u32 = nr::S_IFMT;

/// Where bytes of the host go.
#[derive(Debug)]
pub(crate) enum Sink {
    File { file: Fd, path: Vec<u8> },
    Archive(Unpacker),
}

/// Where bytes for the host come from.
#[derive(Debug)]
pub(crate) enum Source {
    File { file: Fd, path: Vec<u8> },
    Archive(Packer),
}

impl Sink {
    /// A file that is made, emptied or appended to.
    pub(crate) fn file(what: &WriteFile, owner: Option<&Credentials>) -> Result<Self, Failure> {
        let how = if what.append { nr::O_APPEND } else { nr::O_TRUNC };
        let file = create(&what.path, how, what.mode, owner)?;
        Ok(Self::File { file, path: what.path.clone() })
    }

    /// A directory that an archive is unpacked into.
    pub(crate) fn archive(directory: &[u8]) -> Result<Self, Failure> {
        Unpacker::new(directory).map(Self::Archive)
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File { file, path } => fd::write_all(file, bytes).or_failure("write", path),
            Self::Archive(unpacker) => unpacker.take(bytes),
        }
    }

    /// There are no more.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::File { .. } => Ok(()),
            Self::Archive(unpacker) => unpacker.finish(),
        }
    }
}

impl Source {
    /// A regular file.
    pub(crate) fn file(name: &[u8]) -> Result<Self, Failure> {
        let how = nr::O_RDONLY | nr::O_NONBLOCK;
        let file = fd::open(&path(name)?, how, 0).or_failure("open", name)?;
        must_be_regular(&file, name)?;
        Ok(Self::File { file, path: name.to_vec() })
    }

    /// A file or a directory with all in it, as an archive.
    pub(crate) fn archive(name: &[u8]) -> Result<Self, Failure> {
        Packer::new(name).map(Self::Archive)
    }

    /// Returns the next bytes, or an empty slice at the end.
    pub(crate) fn give(&mut self, space: &mut [u8]) -> Result<usize, Failure> {
        match self {
            Self::File { file, path } => fd::read(file, space).or_failure("read", path),
            Self::Archive(packer) => packer.give(space),
        }
    }
}

/// Writes a small file that came along with a command, for its user.
pub(crate) fn stage(staged: &StagedFile, owner: &Credentials) -> Result<(), Failure> {
    let file = create(&staged.path, nr::O_TRUNC, Some(staged.mode), Some(owner))?;
    fd::write_all(&file, &staged.content).or_failure("write", &staged.path)
}

fn create(
    name: &[u8],
    how: u32,
    mode: Option<u16>,
    owner: Option<&Credentials>,
) -> Result<Fd, Failure> {
    // A user without access later must not have access now.
    let first_mode = u32::from(mode.unwrap_or(DEFAULT_MODE)) & 0o777;
    let how = nr::O_WRONLY | nr::O_CREAT | nr::O_NONBLOCK | how;
    let file = fd::open(&path(name)?, how, first_mode).or_failure("open", name)?;
    must_be_regular(&file, name)?;
    if let Some(owner) = owner {
        fd::change_owner(&file, owner.uid, owner.gid).or_failure("chown", name)?;
    }
    // Behind the owner, whose change takes set-user-id away.
    if let Some(mode) = mode {
        fd::change_mode(&file, mode.into()).or_failure("chmod", name)?;
    }
    Ok(file)
}

/// Reading from or writing to anything else may wait for ever.
fn must_be_regular(file: &Fd, name: &[u8]) -> Result<(), Failure> {
    let status = tree::open_status(file).or_failure("stat", name)?;
    match u32::from(status.stx_mode) & KIND {
        nr::S_IFREG => Ok(()),
        nr::S_IFDIR => Err(failure("open", name, Errno::ISDIR)),
        _ => Err(failure("open", name, Errno::OPNOTSUPP)),
    }
}
