//! The client of a worker.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message};

use super::capture;
use super::message::{VERSION, WorkerReply, WorkerRequest};
use super::parcel::Parcel;
use super::status::Status;
use crate::Error;
use crate::agent::read_message;
use crate::error::WorkerError;
use crate::machine::{MachineHandle, StoredSnapshot, StreamError};
use crate::os::{self, with_short_path};
use supermachine_vmm::{Captured, Machine, MachineError};

/// The timeout of a request that a shared worker answers at once, and of a capture on its way.
const LIMIT: Duration = Duration::from_secs(30);

/// A machine that another process of this user holds; see [`Server`](super::Server). Cheap to
/// clone. It does not keep the machine running.
///
/// ```no_run
/// use supermachine::worker::Client;
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let client = Client::connect("/run/user/1000/app/machine.sock")?;
/// println!("{:?}", client.status()?.state);
/// assert_eq!(client.vm().exec(["echo", "hello"])?.stdout, b"hello\n");
/// client.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Whether its owner has stopped the process, or has reset the machine for another user.
    is_over: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    pid: u32,
    /// The connection, for one request at a time; `None` once it has failed.
    socket: Mutex<Option<UnixStream>>,
    /// The timeout of a request that the worker answers at once.
    limit: Option<Duration>,
}

impl Client {
    /// Connects to the process that serves a machine at this socket file.
    ///
    /// # Errors
    /// [`Error::Worker`] when no process or another user's serves there, or one of another version.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let error = |source| Error::Worker {
            source: WorkerError::Unreachable { path: path.to_owned(), source },
        };
        let socket = with_short_path(path, |path| UnixStream::connect(path)).map_err(error)?;
        let peer = os::peer(&socket).map_err(error)?;
        if !os::is_trusted(peer) {
            return Err(error(io::ErrorKind::PermissionDenied.into()));
        }
        Self::greeted(socket, path, peer.pid, Some(LIMIT))
    }

    /// A client on a connection to a process; `path` names it in errors. Without `limit` it waits
    /// without a timeout.
    pub(super) fn greeted(
        socket: UnixStream,
        path: &Path,
        pid: u32,
        limit: Option<Duration>,
    ) -> Result<Self, Error> {
        let inner = Inner { path: path.to_owned(), pid, socket: Mutex::new(Some(socket)), limit };
        let client = Self { inner: Arc::new(inner), is_over: Arc::default() };
        match client.ask(&WorkerRequest::Hello { version: VERSION }, limit)? {
            (WorkerReply::Hello { version: VERSION }, _) => Ok(client),
            (WorkerReply::Hello { version: found }, _) => Err(Error::Worker {
                source: WorkerError::Version { found, supported: VERSION, pid },
            }),
            (WorkerReply::Refused { errno }, _) => {
                let source = io::Error::from_raw_os_error(errno.into());
                Err(Error::Worker {
                    source: WorkerError::Unreachable { path: path.to_owned(), source },
                })
            }
            _ => Err(Error::unexpected("hello")),
        }
    }

    /// Starts the machine of these parts in a process that holds none yet.
    pub(super) fn start<F: AsFd>(
        &self,
        hostname: Option<&str>,
        parts: &Parcel<F>,
    ) -> Result<(), Error> {
        let ask = WorkerRequest::Start { hostname: hostname.map(str::to_owned) };
        self.set_up("start", &ask, parts)
    }

    /// Resets the machine for its next user, to whom the returned client leads. To this one and its
    /// clones, the machine has stopped. After an error the process must not be used.
    pub(super) fn reset<F: AsFd>(
        &self,
        hostname: Option<&str>,
        ends: &Parcel<F>,
    ) -> Result<Self, Error> {
        self.mark_over();
        let next = Self { inner: Arc::clone(&self.inner), is_over: Arc::default() };
        let ask = WorkerRequest::Reset { hostname: hostname.map(str::to_owned) };
        next.set_up("reset", &ask, ends)?;
        Ok(next)
    }

    fn set_up<F: AsFd>(
        &self,
        request: &'static str,
        ask: &WorkerRequest,
        parcel: &Parcel<F>,
    ) -> Result<(), Error> {
        let send = |socket: &mut UnixStream| {
            socket.write_all(&ask.to_frame())?;
            parcel.send(socket)
        };
        match self.exchange(send, None)? {
            (WorkerReply::Done, _) => Ok(()),
            (WorkerReply::Failed { reason }, _) => {
                Err(Error::Worker { source: WorkerError::Failed { reason } })
            }
            _ => Err(Error::unexpected(request)),
        }
    }

    /// Records that the owner stops the process or resets the machine: later requests fail with
    /// [`Error::Stopped`].
    pub(super) fn mark_over(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// The machine's status.
    ///
    /// # Errors
    /// [`Error::Worker`] when the process has exited.
    pub fn status(&self) -> Result<Status, Error> {
        match self.ask(&WorkerRequest::Status, self.inner.limit)? {
            (WorkerReply::Status { label, state }, _) => Ok(Status { label, state }),
            _ => Err(Error::unexpected("status")),
        }
    }

    /// The id of the process that holds the machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Stops the machine; its process then exits.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had exited by itself; the process exits all the same.
    pub fn stop(&self) -> Result<(), Error> {
        match self.ask(&WorkerRequest::Stop, None)? {
            (WorkerReply::Stopped { before: None }, _) => Ok(()),
            (WorkerReply::Stopped { before: Some(end) }, _) => Err(end.into_error()),
            _ => Err(Error::unexpected("stop")),
        }
    }

    /// What the worker knows of why streams closed.
    fn look(&self) -> Result<Option<StreamError>, Error> {
        match self.ask(&WorkerRequest::Look, self.inner.limit)? {
            (WorkerReply::Seen(end), _) => Ok(end),
            _ => Err(Error::unexpected("look")),
        }
    }

    fn done(&self, request: &'static str, ask: &WorkerRequest) -> Result<(), Error> {
        match self.ask(ask, self.inner.limit)? {
            (WorkerReply::Done, _) => Ok(()),
            (WorkerReply::Failed { reason }, _) => Err(self.failure(reason)),
            _ => Err(Error::unexpected(request)),
        }
    }

    /// The error of a request that failed for this reason. A guest that has exited explains it.
    fn failure(&self, reason: String) -> Error {
        match self.look() {
            Ok(Some(exit)) => exit.into_error(),
            _ => Error::Worker { source: WorkerError::Failed { reason } },
        }
    }

    /// Sends a request that is answered with a stream.
    fn stream(&self, ask: &WorkerRequest) -> Result<UnixStream, Error> {
        match self.ask(ask, self.inner.limit)? {
            (WorkerReply::Stream, Some(fd)) => {
                let stream = UnixStream::from(fd);
                // It may be any descriptor. This fails unless it is a Unix socket.
                stream.local_addr().map_err(|source| MachineError::Stream { source })?;
                Ok(stream)
            }
            // It was sent, but this process has no descriptor left for it.
            (WorkerReply::Stream, None) => {
                let source = io::Error::from_raw_os_error(libc::EMFILE);
                Err(MachineError::Stream { source }.into())
            }
            (WorkerReply::Refused { errno }, _) => {
                let source = io::Error::from_raw_os_error(errno.into());
                Err(MachineError::Stream { source }.into())
            }
            (WorkerReply::Failed { reason }, _) => {
                Err(Error::Worker { source: WorkerError::Failed { reason } })
            }
            _ => Err(Error::unexpected("stream")),
        }
    }

    /// Waits for the reply to a request that takes long, on a stream of its own.
    fn outcome(&self, stream: &mut UnixStream) -> Result<WorkerReply, Error> {
        match read_message(stream, None) {
            Ok(WorkerReply::Failed { reason }) => Err(self.failure(reason)),
            Ok(WorkerReply::Seen(Some(StreamError::Stopped))) => Err(Error::Stopped),
            Ok(reply) => Ok(reply),
            // Without a reply, the process has exited.
            Err(_) => Err(self.gone()),
        }
    }

    /// Sends a request and waits for the reply.
    fn ask(
        &self,
        ask: &WorkerRequest,
        limit: Option<Duration>,
    ) -> Result<(WorkerReply, Option<OwnedFd>), Error> {
        match self.exchange(|socket| socket.write_all(&ask.to_frame()), limit)? {
            // The machine was stopped, so any request fails with that.
            (WorkerReply::Seen(Some(StreamError::Stopped)), _) if *ask != WorkerRequest::Look => {
                Err(Error::Stopped)
            }
            answer => Ok(answer),
        }
    }

    /// Sends, and waits for the reply. After a failure the connection is dropped, as the next reply
    /// could belong to any request.
    fn exchange(
        &self,
        send: impl FnOnce(&mut UnixStream) -> io::Result<()>,
        limit: Option<Duration>,
    ) -> Result<(WorkerReply, Option<OwnedFd>), Error> {
        let mut place = self.inner.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // With the lock held: a request must not overtake a reset and reach the next user's machine.
        if self.is_over.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let Some(mut socket) = place.take() else { return Err(self.gone()) };
        let done = socket
            .set_read_timeout(limit)
            .and_then(|()| match send(&mut socket) {
                // A worker that hung up may have sent the reason first.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                done => done,
            })
            .map_err(|source| self.failed(source))
            .and_then(|()| self.receive(&mut socket));
        if done.is_ok() {
            *place = Some(socket);
        }
        done
    }

    fn receive(&self, socket: &mut UnixStream) -> Result<(WorkerReply, Option<OwnedFd>), Error> {
        let mut header = [0; HEADER_SIZE];
        let (count, files) = os::receive_with_descriptors(socket, &mut header)
            .map_err(|source| self.failed(source))?;
        if count == 0 {
            return Err(self.gone());
        }
        let rest = &mut header[count..];
        socket.read_exact(rest).map_err(|source| self.failed(source))?;
        let protocol = |source| Error::Worker { source: WorkerError::Protocol { source } };
        let header = Header::decode(header).map_err(protocol)?;
        let mut payload = vec![0; header.length];
        socket.read_exact(&mut payload).map_err(|source| self.failed(source))?;
        let reply = WorkerReply::decode(header.kind, &payload).map_err(protocol)?;
        Ok((reply, files.into_iter().next()))
    }

    fn gone(&self) -> Error {
        if self.is_over.load(Ordering::Acquire) {
            Error::Stopped
        } else {
            Error::Worker { source: WorkerError::Gone }
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WouldBlock};
        match source.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => self.gone(),
            WouldBlock => {
                let source = io::ErrorKind::TimedOut.into();
                Error::Worker {
                    source: WorkerError::Unreachable { path: self.inner.path.clone(), source },
                }
            }
            _ => Error::Worker {
                source: WorkerError::Unreachable { path: self.inner.path.clone(), source },
            },
        }
    }
}

impl MachineHandle for Client {
    fn dial(&self, frames: &[u8]) -> Result<UnixStream, Error> {
        let mut stream = self.stream(&WorkerRequest::Dial)?;
        // If the guest has exited or its agent reads nothing, the reader of the stream learns it.
        let _ = stream.set_write_timeout(self.inner.limit);
        let _ = stream.write_all(frames);
        let _ = stream.set_write_timeout(None);
        Ok(stream)
    }

    fn exit(&self) -> Option<StreamError> {
        match self.look() {
            Ok(exit) => exit,
            Err(Error::Stopped) => Some(StreamError::Stopped),
            Err(_) => Some(StreamError::WorkerGone),
        }
    }

    fn is_healthy(&self) -> bool {
        match self.inner.socket.try_lock() {
            Ok(place) => place.as_ref().is_some_and(|socket| !os::is_hung_up(socket)),
            // Another thread waits for an answer, and will see it.
            Err(_) => true,
        }
    }

    fn console(&self) -> Result<Vec<u8>, Error> {
        match self.ask(&WorkerRequest::Console, self.inner.limit)? {
            (WorkerReply::Console(bytes), _) => Ok(bytes),
            _ => Err(Error::unexpected("console")),
        }
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        match self.ask(&WorkerRequest::Usage, self.inner.limit)? {
            (WorkerReply::Usage { cpu_time, exits }, _) => Ok((cpu_time, exits)),
            _ => Err(Error::unexpected("usage")),
        }
    }

    fn request_capture(&self, memory_size: u64) -> Result<Captured, Error> {
        use io::ErrorKind::{ConnectionReset, UnexpectedEof, WouldBlock};
        let mut outcome = self.stream(&WorkerRequest::Capture)?;
        let WorkerReply::Captured { stopped } = self.outcome(&mut outcome)? else {
            return Err(Error::unexpected("capture"));
        };
        // It is complete, and only has to be sent.
        outcome.set_read_timeout(Some(LIMIT)).map_err(Error::stream)?;
        capture::receive(&mut outcome, memory_size, stopped).map_err(|source| match source.kind() {
            UnexpectedEof | ConnectionReset | WouldBlock => self.failed(source),
            _ => WorkerError::Capture { source }.into(),
        })
    }

    fn request_snapshot(&self, name: &str) -> Result<StoredSnapshot, Error> {
        let mut outcome = self.stream(&WorkerRequest::Snapshot { name: name.to_owned() })?;
        match self.outcome(&mut outcome)? {
            WorkerReply::Snapshotted(stored) => Ok(stored),
            _ => Err(Error::unexpected("snapshot")),
        }
    }

    fn pause(&self) -> Result<(), Error> {
        self.done("pause", &WorkerRequest::Pause)
    }

    fn resume(&self) -> Result<(), Error> {
        self.done("resume", &WorkerRequest::Resume)
    }

    fn stop(&self) -> Result<(), Error> {
        Self::stop(self)
    }

    fn keep_alive(&self) -> Option<Arc<Machine>> {
        None
    }
}
