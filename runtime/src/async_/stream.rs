//! Streams to the guest that are registered with the runtime, and why they ended.

use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use crate::Error;
use crate::agent::{End, GUEST_END_INTERVAL, Witness};

/// Registers a stream with the runtime.
pub(super) fn register(stream: StdStream) -> Result<UnixStream, Error> {
    let prepared = stream.set_nonblocking(true);
    let registered = prepared.and_then(|()| UnixStream::from_std(stream));
    registered.map_err(|source| Error::Stream { source })
}

/// Takes a stream from the runtime. It still does not wait.
pub(super) fn unregister(stream: UnixStream) -> Result<StdStream, Error> {
    stream.into_std().map_err(|source| Error::Stream { source })
}

/// Has `read` read once there is something.
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

/// Writes what there is room for, once there is some.
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

/// Fills all of the space.
pub(super) async fn read_exact(stream: &UnixStream, space: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < space.len() {
        let rest = space.get_mut(filled..).unwrap_or_default();
        match poll_fn(|cx| poll_read(stream, cx, || stream.try_read(rest))).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

/// Whether it is to be tried again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Finds out why a stream ended.
#[derive(Debug)]
pub(super) struct Ending {
    since: Instant,
    /// Until it is looked at again.
    sleep: Pin<Box<Sleep>>,
}

impl Ending {
    /// For one that ended now.
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), sleep: Box::pin(sleep(GUEST_END_INTERVAL)) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, witness: &Witness) -> Poll<End> {
        loop {
            if let Some(end) = witness.look(self.since) {
                return Poll::Ready(end);
            }
            ready!(self.sleep.as_mut().poll(cx));
            self.sleep = Box::pin(sleep(GUEST_END_INTERVAL));
        }
    }
}

/// Why a stream that ended now did so.
pub(super) async fn explain(witness: &Witness) -> Error {
    let mut ending = Ending::new();
    poll_fn(|cx| ending.poll(cx, witness)).await.into_error()
}

/// Writes all of it, and sees to it that it goes on.
pub(super) async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *to).poll_write(cx, rest)).await {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    poll_fn(|cx| Pin::new(&mut *to).poll_flush(cx)).await
}
