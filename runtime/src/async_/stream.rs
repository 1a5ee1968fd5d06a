//! Streams to the guest, registered with the runtime, and why they closed.

use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use crate::Error;
use crate::machine::{EXIT_POLL_INTERVAL, MachineHandle, StreamError};

/// Registers a stream with the runtime.
pub(super) fn register(stream: StdStream) -> Result<UnixStream, Error> {
    let prepared = stream.set_nonblocking(true);
    let registered = prepared.and_then(|()| UnixStream::from_std(stream));
    registered.map_err(Error::stream)
}

/// Removes a stream from the runtime. It stays non-blocking.
pub(super) fn unregister(stream: UnixStream) -> Result<StdStream, Error> {
    stream.into_std().map_err(Error::stream)
}

/// Calls `read` once the stream is readable.
pub(super) fn poll_read(
    stream: &UnixStream,
    cx: &mut Context<'_>,
    mut read: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match read() {
            Err(error) if is_passing(&error) => {}
            received => return Poll::Ready(received),
        }
    }
}

/// Writes as much as fits, once the stream is writable.
pub(super) fn poll_write(
    stream: &UnixStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_write(bytes) {
            Err(error) if is_passing(&error) => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// Fills `space`.
pub(super) async fn read_exact(stream: &UnixStream, space: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < space.len() {
        let rest = &mut space[filled..];
        match poll_fn(|cx| poll_read(stream, cx, || stream.try_read(rest))).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Whether to try again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Finds out why a stream closed.
#[derive(Debug)]
pub(super) struct ExitProbe {
    since: Instant,
    /// Sleeps until the next look.
    sleep: Pin<Box<Sleep>>,
}

impl ExitProbe {
    /// For a stream that closed now.
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), sleep: Box::pin(sleep(EXIT_POLL_INTERVAL)) }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        machine: &Arc<dyn MachineHandle>,
    ) -> Poll<StreamError> {
        loop {
            if let Some(end) = machine.exit_since(self.since) {
                return Poll::Ready(end);
            }
            ready!(self.sleep.as_mut().poll(cx));
            self.sleep = Box::pin(sleep(EXIT_POLL_INTERVAL));
        }
    }
}

/// Why a stream that closed now did so.
pub(super) async fn explain(machine: &Arc<dyn MachineHandle>) -> Error {
    let mut ending = ExitProbe::new();
    poll_fn(|cx| ending.poll(cx, machine)).await.into_error()
}

/// Writes and flushes all bytes.
pub(super) async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *to).poll_write(cx, rest)).await {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    poll_fn(|cx| Pin::new(&mut *to).poll_flush(cx)).await
}
