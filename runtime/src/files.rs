//! Files in a machine.
//!
//! Paths are absolute, in the container's root, as a command of the machine sees it. What is done
//! is done as the guest's root user.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use supermachine_formats::wire::{MAX_MODE, MAX_NAME, Request, WriteFile};

use crate::agent::{End, Transfer};
use crate::{Error, Vm};

/// The largest content that is sent along with its request.
pub(crate) const ALONG: usize = 256 << 10;
/// What is copied at once.
pub(crate) const PIECE: usize = 64 << 10;

/// A file that is about to be written. See [`Vm::file`]. `V` is the machine's handle, and says
/// whether the file is waited for or awaited.
#[derive(Debug)]
#[must_use = "nothing is written until `write` or `writer` is called"]
pub struct FileBuilder<'a, V = Vm> {
    vm: &'a V,
    path: PathBuf,
    mode: Option<u32>,
    owner: Option<String>,
    append: bool,
}

impl<V> Clone for FileBuilder<'_, V> {
    fn clone(&self) -> Self {
        Self { vm: self.vm, path: self.path.clone(), owner: self.owner.clone(), ..*self }
    }
}

impl<'a, V> FileBuilder<'a, V> {
    pub(crate) fn new(vm: &'a V, path: &Path) -> Self {
        Self { vm, path: path.to_owned(), mode: None, owner: None, append: false }
    }

    /// Sets the file's mode, whether it is new or not. A new file has 0644 otherwise.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the file's owner, as `user[:group]`, by name or number. A new file is root's
    /// otherwise.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Writes behind what the file holds instead of in its place.
    pub fn append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// The machine, and the request that begins to write.
    pub(crate) fn request(self) -> Result<(&'a V, Request), Error> {
        let request = Request::WriteFile(WriteFile {
            path: checked_path(&self.path)?,
            mode: self.mode.map(checked_mode).transpose()?,
            owner: self.owner,
            append: self.append,
        });
        Ok((self.vm, request))
    }
}

impl FileBuilder<'_> {
    /// Writes the file. Its directory must exist.
    ///
    /// The file is written in place: if the guest fails meanwhile it holds what came until then.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path: there is no such directory or
    /// owner, the path is no regular file, or there is no room.
    pub fn write(self, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let content = content.as_ref();
        let (vm, request) = self.request()?;
        if content.len() <= ALONG {
            let mut transfer = Transfer::open(vm, &request, content, true)?;
            return transfer.wait().map_err(End::into_error);
        }
        let mut writer = FileWriter(Transfer::open(vm, &request, &[], false)?);
        let mut rest = content;
        while !rest.is_empty() {
            let count = writer.0.send(rest).map_err(End::into_error)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        writer.finish()
    }

    /// Begins to write the file piece by piece, of any length.
    ///
    /// # Errors
    /// The path or mode is not a possible one, or no stream can be opened. What the guest says
    /// comes with the first piece that follows it, or at the end.
    pub fn writer(self) -> Result<FileWriter, Error> {
        let (vm, request) = self.request()?;
        Transfer::open(vm, &request, &[], false).map(FileWriter)
    }
}

/// Writes a file in the guest, piece by piece. End it with [`finish`](FileWriter::finish): if it is
/// dropped before, the file keeps what was written until then.
#[derive(Debug)]
#[must_use = "a file is complete once `finish` has succeeded"]
pub struct FileWriter(Transfer);

impl FileWriter {
    /// Waits until all is written.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub fn finish(self) -> Result<(), Error> {
        self.0.finish().map_err(End::into_error)
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes).map_err(End::into_io)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file in the guest, piece by piece. What went wrong comes as an [`io::Error`] that holds
/// an [`Error`].
#[derive(Debug)]
pub struct FileReader(Transfer);

impl FileReader {
    pub(crate) fn open(vm: &Vm, path: &Path) -> Result<Self, Error> {
        let request = Request::ReadFile { path: checked_path(path)? };
        Transfer::open(vm, &request, &[], false).map(Self)
    }

    /// Reads up to the file's end.
    pub(crate) fn content(mut self) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let mut filled = 0;
        loop {
            content.resize(filled + PIECE, 0);
            let space = content.get_mut(filled..).unwrap_or_default();
            match self.0.receive(space).map_err(End::into_error)? {
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
        Ok(self.0.receive(space).map_err(End::into_io)?.unwrap_or(0))
    }
}

/// Unpacks an archive that comes from a reader.
pub(crate) fn copy_in(vm: &Vm, path: &Path, tar: &mut dyn Read) -> Result<(), Error> {
    let request = Request::CopyIn { path: checked_path(path)? };
    let mut transfer = Transfer::open(vm, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    loop {
        match tar.read(&mut piece) {
            Ok(0) => return transfer.finish().map_err(End::into_error),
            Ok(count) => {
                let bytes = piece.get(..count).unwrap_or_default();
                transfer.send(bytes).map_err(End::into_error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Copy { operation: "read", source }),
        }
    }
}

/// Packs an archive that goes to a writer.
pub(crate) fn copy_out(vm: &Vm, path: &Path, tar: &mut dyn Write) -> Result<(), Error> {
    let request = Request::CopyOut { path: checked_path(path)? };
    let mut transfer = Transfer::open(vm, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    while let Some(count) = transfer.receive(&mut piece).map_err(End::into_error)? {
        tar.write_all(piece.get(..count).unwrap_or_default())
            .map_err(|source| Error::Copy { operation: "written", source })?;
    }
    Ok(())
}

/// A path that the guest can be asked for.
pub(crate) fn checked_path(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    if !bytes.starts_with(b"/") || bytes.contains(&0) || bytes.len() > MAX_NAME {
        return Err(Error::InvalidPath { path: path.to_owned() });
    }
    Ok(bytes.to_vec())
}

/// A mode that a file can have.
pub(crate) fn checked_mode(mode: u32) -> Result<u16, Error> {
    u16::try_from(mode).ok().filter(|mode| *mode <= MAX_MODE).ok_or(Error::InvalidMode { mode })
}
