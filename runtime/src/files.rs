//! Files in a machine.
//!
//! Paths are absolute, in the container's root as a command sees it. The agent acts as the guest's
//! root user.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::wire::{MAX_MODE, MAX_NAME, Request, WriteFile};

use crate::Error;
use crate::agent::Transfer;
use crate::error::{InvalidInput, TransferError};
use crate::machine::{Blocking, MachineHandle, StreamError};

/// The most content that is sent with its request.
pub(crate) const ALONG: usize = 256 << 10;
/// The size of one copied piece.
pub(crate) const PIECE: usize = 64 << 10;

/// Describes a write to a file. See [`Vm::file`](crate::Vm::file). `M` says whether its calls block
/// or are awaited.
#[derive(Debug)]
#[must_use = "nothing is written until `write` or `writer` is called"]
pub struct FileBuilder<'a, M = Blocking> {
    machine: &'a Arc<dyn MachineHandle>,
    path: PathBuf,
    mode: Option<u32>,
    owner: Option<String>,
    append: bool,
    call: PhantomData<M>,
}

impl<M> Clone for FileBuilder<'_, M> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), owner: self.owner.clone(), ..*self }
    }
}

impl<'a, M> FileBuilder<'a, M> {
    pub(crate) fn new(machine: &'a Arc<dyn MachineHandle>, path: &Path) -> Self {
        let (path, call) = (path.to_owned(), PhantomData);
        Self { machine, path, mode: None, owner: None, append: false, call }
    }

    /// Sets the mode of a new or existing file. The default for a new file is 0644.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the owner, as `user[:group]`, by name or number. A new file belongs to root by default.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Appends to the file instead of replacing its content.
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// The machine, and the request to write.
    pub(crate) fn request(self) -> Result<(&'a Arc<dyn MachineHandle>, Request), Error> {
        let request = Request::WriteFile(WriteFile {
            path: checked_path(&self.path)?,
            mode: self.mode.map(checked_mode).transpose()?,
            owner: self.owner,
            append: self.append,
        });
        Ok((self.machine, request))
    }
}

impl FileBuilder<'_> {
    /// Writes the file. Its directory must exist.
    ///
    /// The file is written in place: if the guest fails, it keeps the bytes written until then.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path: there is no such directory or
    /// owner, the path is not a regular file, or there is no space.
    pub fn write(self, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let content = content.as_ref();
        let (machine, request) = self.request()?;
        if content.len() <= ALONG {
            let mut transfer = Transfer::open(machine, &request, content, true)?;
            return transfer.wait().map_err(StreamError::into_error);
        }
        let mut writer = FileWriter(Transfer::open(machine, &request, &[], false)?);
        let mut rest = content;
        while !rest.is_empty() {
            let count = writer.0.send(rest).map_err(StreamError::into_error)?;
            rest = &rest[count..];
        }
        writer.finish()
    }

    /// Opens the file for writing as a stream of any length.
    ///
    /// # Errors
    /// The path or mode is invalid, or no stream can be opened. An error of the guest comes with a
    /// later write, or at the end.
    pub fn writer(self) -> Result<FileWriter, Error> {
        let (machine, request) = self.request()?;
        Transfer::open(machine, &request, &[], false).map(FileWriter)
    }
}

/// Writes a file in the guest as a stream. Call [`finish`](FileWriter::finish) at the end: a writer
/// that is dropped earlier leaves a partial file.
#[derive(Debug)]
#[must_use = "a file is complete once `finish` has succeeded"]
pub struct FileWriter(Transfer);

impl FileWriter {
    /// Waits until the file is complete.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub fn finish(self) -> Result<(), Error> {
        self.0.finish().map_err(StreamError::into_error)
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes).map_err(StreamError::into_io)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file in the guest as a stream. Its errors are [`io::Error`]s that wrap an [`Error`].
#[derive(Debug)]
pub struct FileReader(Transfer);

impl FileReader {
    pub(crate) fn open(machine: &Arc<dyn MachineHandle>, path: &Path) -> Result<Self, Error> {
        let request = Request::ReadFile { path: checked_path(path)? };
        Transfer::open(machine, &request, &[], false).map(Self)
    }

    /// Reads the rest of the file.
    pub(crate) fn content(mut self) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let mut filled = 0;
        loop {
            content.resize(filled + PIECE, 0);
            let space = &mut content[filled..];
            match self.0.receive(space).map_err(StreamError::into_error)? {
                Some(count) => filled += count,
                None => {
                    content.truncate(filled);
                    return Ok(content);
                }
            }
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if space.is_empty() {
            return Ok(0);
        }
        Ok(self.0.receive(space).map_err(StreamError::into_io)?.unwrap_or(0))
    }
}

/// Unpacks an archive from a reader.
pub(crate) fn copy_in(
    machine: &Arc<dyn MachineHandle>,
    path: &Path,
    tar: &mut dyn Read,
) -> Result<(), Error> {
    let request = Request::CopyIn { path: checked_path(path)? };
    let mut transfer = Transfer::open(machine, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    loop {
        match tar.read(&mut piece) {
            Ok(0) => return transfer.finish().map_err(StreamError::into_error),
            Ok(count) => {
                let bytes = &piece[..count];
                transfer.send(bytes).map_err(StreamError::into_error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Transfer {
                    source: TransferError::Copy { operation: "read", source },
                });
            }
        }
    }
}

/// Packs an archive into a writer.
pub(crate) fn copy_out(
    machine: &Arc<dyn MachineHandle>,
    path: &Path,
    tar: &mut dyn Write,
) -> Result<(), Error> {
    let request = Request::CopyOut { path: checked_path(path)? };
    let mut transfer = Transfer::open(machine, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    while let Some(count) = transfer.receive(&mut piece).map_err(StreamError::into_error)? {
        tar.write_all(&piece[..count]).map_err(|source| Error::Transfer {
            source: TransferError::Copy { operation: "written", source },
        })?;
    }
    Ok(())
}

/// Checks a path in the guest.
pub(crate) fn checked_path(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    if !bytes.starts_with(b"/") || bytes.contains(&0) || bytes.len() > MAX_NAME {
        return Err(Error::Invalid { source: InvalidInput::Path { path: path.to_owned() } });
    }
    Ok(bytes.to_vec())
}

/// Checks a file's mode.
pub(crate) fn checked_mode(mode: u32) -> Result<u16, Error> {
    u16::try_from(mode)
        .ok()
        .filter(|mode| *mode <= MAX_MODE)
        .ok_or(Error::Invalid { source: InvalidInput::Mode { mode } })
}
