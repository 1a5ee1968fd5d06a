//! Files in a machine, awaited.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use supermachine_formats::wire::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::write_all;
use super::transfer::Transfer;
use super::vm::Vm;
use crate::Error;
use crate::agent::End;
use crate::files::{ALONG, PIECE, checked_path};

/// A file that is about to be written, with the same methods as the one that
/// [blocks](crate::FileBuilder).
pub type FileBuilder<'a> = crate::FileBuilder<'a, Vm>;

impl crate::FileBuilder<'_, Vm> {
    /// Writes the file. Its directory must exist.
    ///
    /// The file is written in place: if the guest fails meanwhile, or the future is dropped, it
    /// holds what came until then.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path: there is no such directory or
    /// owner, the path is no regular file, or there is no room.
    pub async fn write(self, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let content = content.as_ref();
        let (vm, request) = self.request()?;
        if content.len() <= ALONG {
            let mut transfer = Transfer::open(vm, &request, content, true)?;
            return transfer.answer().await.map_err(End::into_error);
        }
        let mut transfer = Transfer::open(vm, &request, &[], false)?;
        transfer.send_all(content).await.map_err(End::into_error)?;
        transfer.finish().await.map_err(End::into_error)
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

/// Writes a file in the guest, piece by piece. End it with [`finish`](FileWriter::finish), or shut
/// it down: if it is dropped before, the file keeps what was written until then.
#[derive(Debug)]
#[must_use = "a file is complete once `finish` has succeeded"]
pub struct FileWriter(Transfer);

impl FileWriter {
    /// Waits until all is written.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.0.finish().await.map_err(End::into_error)
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().0.poll_send(cx, bytes).map_err(End::into_io)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_flush(cx).map_err(End::into_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_finish(cx).map_err(End::into_io)
    }
}

/// Reads a file in the guest, piece by piece. What went wrong comes as an [`io::Error`] that holds
/// an [`Error`].
#[derive(Debug)]
pub struct FileReader(Transfer);

impl FileReader {
    pub(super) fn open(vm: &Vm, path: &Path) -> Result<Self, Error> {
        let request = Request::ReadFile { path: checked_path(path)? };
        Transfer::open(vm, &request, &[], false).map(Self)
    }

    /// Reads up to the file's end.
    pub(super) async fn content(mut self) -> Result<Vec<u8>, Error> {
        let (mut content, mut piece) = (Vec::new(), vec![0; PIECE]);
        while let Some(count) = self.0.receive(&mut piece).await.map_err(End::into_error)? {
            content.extend_from_slice(piece.get(..count).unwrap_or_default());
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
        let count = ready!(self.get_mut().0.poll_receive(cx, space)).map_err(End::into_io)?;
        buffer.advance(count.unwrap_or(0));
        Poll::Ready(Ok(()))
    }
}

/// Unpacks an archive that comes from a reader.
pub(super) async fn copy_in(
    vm: &Vm,
    path: &Path,
    tar: &mut (impl AsyncRead + Unpin),
) -> Result<(), Error> {
    let request = Request::CopyIn { path: checked_path(path)? };
    let mut transfer = Transfer::open(vm, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    loop {
        match read(tar, &mut piece).await {
            Ok([]) => return transfer.finish().await.map_err(End::into_error),
            Ok(bytes) => transfer.send_all(bytes).await.map_err(End::into_error)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Copy { operation: "read", source }),
        }
    }
}

/// Packs an archive that goes to a writer.
pub(super) async fn copy_out(
    vm: &Vm,
    path: &Path,
    tar: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    let request = Request::CopyOut { path: checked_path(path)? };
    let mut transfer = Transfer::open(vm, &request, &[], false)?;
    let mut piece = vec![0; PIECE];
    while let Some(count) = transfer.receive(&mut piece).await.map_err(End::into_error)? {
        write_all(tar, piece.get(..count).unwrap_or_default())
            .await
            .map_err(|source| Error::Copy { operation: "written", source })?;
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
    Ok(space.get(..count).unwrap_or_default())
}
