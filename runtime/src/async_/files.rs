//! Files in a machine, awaited.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::write_all;
use super::transfer::Transfer;
use crate::Error;
use crate::error::TransferError;
use crate::files::{ALONG, PIECE, checked_path};
use crate::machine::{Awaited, MachineHandle, StreamError};

/// Describes a write to a file, with the methods of the [blocking builder](crate::FileBuilder).
pub type FileBuilder<'a> = crate::FileBuilder<'a, Awaited>;

impl crate::FileBuilder<'_, Awaited> {
    /// Writes the file. Its directory must exist.
    ///
    /// The file is written in place: if the guest fails, or the future is dropped, it keeps the
    /// bytes written until then.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path: there is no such directory or
    /// owner, the path is not a regular file, or there is no space.
    pub async fn write(self, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let content = content.as_ref();
        let (machine, request) = self.request()?;
        if content.len() <= ALONG {
            let mut transfer = Transfer::open(machine, &request, content, true)?;
            return transfer.answer().await.map_err(StreamError::into_error);
        }
        let mut transfer = Transfer::open(machine, &request, &[], false)?;
        transfer.send_all(content).await.map_err(StreamError::into_error)?;
        transfer.finish().await.map_err(StreamError::into_error)
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

/// Writes a file in the guest as a stream. Call [`finish`](FileWriter::finish) or shut it down at
/// the end: a writer that is dropped earlier leaves a partial file.
#[derive(Debug)]
#[must_use = "a file is complete once `finish` has succeeded"]
pub struct FileWriter(Transfer);

impl FileWriter {
    /// Waits until the file is complete.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.0.finish().await.map_err(StreamError::into_error)
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().0.poll_send(cx, bytes).map_err(StreamError::into_io)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_flush(cx).map_err(StreamError::into_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_finish(cx).map_err(StreamError::into_io)
    }
}

/// Reads a file in the guest as a stream. Its errors are [`io::Error`]s that wrap an [`Error`].
#[derive(Debug)]
pub struct FileReader(Transfer);

impl FileReader {
    pub(super) fn open(machine: &Arc<dyn MachineHandle>, path: &Path) -> Result<Self, Error> {
        let request = Request::ReadFile { path: checked_path(path)? };
        Transfer::open(machine, &request, &[], false).map(Self)
    }

    /// Reads the rest of the file.
    pub(super) async fn content(mut self) -> Result<Vec<u8>, Error> {
        let (mut content, mut piece) = (Vec::new(), vec![0; PIECE]);
        while let Some(count) = self.0.receive(&mut piece).await.map_err(StreamError::into_error)? {
            content.extend_from_slice(&piece[..count]);
        }
        Ok(content)
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buffer.initialize_unfilled();
        if space.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let count =
            ready!(self.get_mut().0.poll_receive(cx, space)).map_err(StreamError::into_io)?;
        buffer.advance(count.unwrap_or(0));
        Poll::Ready(Ok(()))
    }
}

/// Unpacks an archive from a reader.
pub(super) async fn copy_in(
    machine: &Arc<dyn MachineHandle>,
    path: &Path,
    tar: &mut (impl AsyncRead + Unpin),
) -> Result<(), Error> {
    let request = Request::CopyIn { path: checked_path(path)? };
    let mut transfer = Transfer::open(machine, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    loop {
        match read(tar, &mut piece).await {
            Ok([]) => return transfer.finish().await.map_err(StreamError::into_error),
            Ok(bytes) => transfer.send_all(bytes).await.map_err(StreamError::into_error)?,
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
pub(super) async fn copy_out(
    machine: &Arc<dyn MachineHandle>,
    path: &Path,
    tar: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    let request = Request::CopyOut { path: checked_path(path)? };
    let mut transfer = Transfer::open(machine, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    while let Some(count) = transfer.receive(&mut piece).await.map_err(StreamError::into_error)? {
        write_all(tar, &piece[..count]).await.map_err(|source| Error::Transfer {
            source: TransferError::Copy { operation: "written", source },
        })?;
    }
    Ok(())
}

async fn read<'s>(
    from: &mut (impl AsyncRead + Unpin),
    space: &'s mut [u8],
) -> io::Result<&'s [u8]> {
    let mut buffer = ReadBuf::new(space);
    poll_fn(|cx| Pin::new(&mut *from).poll_read(cx, &mut buffer)).await?;
    let count = buffer.filled().len();
    Ok(&space[..count])
}
