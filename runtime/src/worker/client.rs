//! The side of those who use a machine that another process holds.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Request};

use super::message::{Answer, Ask, Order, Taken, VERSION};
use super::{Status, sys};
use crate::agent::{End, Line, Witness, read_message};
use crate::forward::{Dial, is_hung_up, with_short_path};
use crate::live::Snapshotted;
use crate::{Error, Image, Timings, Vm, Way, paths};
use supermachine_snapshots::pack::Source;
use supermachine_vmm::MachineError;

/// How long a worker that serves many may take for what it can tell at once.
const LIMIT: Duration = Duration::from_secs(30);

/// A machine that another process of this user holds, see [`Server`](super::Server). Cheap to
/// clone; it does not keep the machine alive.
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
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    pid: u32,
    /// The connection, used by one at a time; none once it has failed.
    socket: Mutex<Option<UnixStream>>,
    /// How long it may take for what it can tell at once.
    limit: Option<Duration>,
    /// Whether its owner has ended the process.
    is_over: AtomicBool,
}

impl Client {
    /// Connects to the process that serves a machine at this socket file.
    ///
    /// # Errors
    /// [`Error::Worker`] when nobody serves there or another user does, and
    /// [`Error::WorkerVersion`] when it is of another version.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let error = |source| Error::Worker { path: path.to_owned(), source };
        let socket = with_short_path(path, |path| UnixStream::connect(path)).map_err(error)?;
        let peer = sys::peer(&socket).map_err(error)?;
        if !sys::is_trusted(peer) {
            return Err(error(io::ErrorKind::PermissionDenied.into()));
        }
        Self::greeted(socket, path, peer.pid, Some(LIMIT))
    }

    /// A client on a connection to a process, which errors call by this path. Without a limit it
    /// waits for the process as for what this one does itself.
    pub(super) fn greeted(
        socket: UnixStream,
        path: &Path,
        pid: u32,
        limit: Option<Duration>,
    ) -> Result<Self, Error> {
        let (socket, is_over) = (Mutex::new(Some(socket)), AtomicBool::new(false));
        let inner = Inner { path: path.to_owned(), pid, socket, limit, is_over };
        let client = Self { inner: Arc::new(inner) };
        match client.ask(&Ask::Hello { version: VERSION }, limit)? {
            (Answer::Hello { version: VERSION }, _) => Ok(client),
            (Answer::Hello { version: found }, _) => {
                Err(Error::WorkerVersion { found, supported: VERSION, pid })
            }
            (Answer::Refused { errno }, _) => {
                let source = io::Error::from_raw_os_error(errno.into());
                Err(Error::Worker { path: path.to_owned(), source })
            }
            _ => Err(unexpected("hello")),
        }
    }

    /// Has a process that holds no machine yet start one.
    pub(super) fn start(&self, order: Order) -> Result<Way, Error> {
        match self.ask(&Ask::Start(order), None)? {
            (Answer::Started { way }, _) => Ok(way),
            (Answer::Failed { reason }, _) => Err(Error::WorkerFailed { reason }),
            _ => Err(unexpected("start")),
        }
    }

    /// Says that the process is ended by its owner: whoever asks now is told that the machine was
    /// stopped.
    pub(super) fn mark_over(&self) {
        self.inner.is_over.store(true, Ordering::Release);
    }

    /// The machine, as if it were held here. When the handle is dropped, its forwards end and the
    /// machine runs on; [`Vm::stop`] is [`Client::stop`].
    #[must_use]
    pub fn vm(&self) -> Vm {
        Vm::held_by(self.clone())
    }

    /// How the machine fares.
    ///
    /// # Errors
    /// [`Error::WorkerGone`] when the process has ended.
    pub fn status(&self) -> Result<Status, Error> {
        match self.ask(&Ask::Status, self.inner.limit)? {
            (Answer::Status { label, state }, _) => Ok(Status { label, state }),
            _ => Err(unexpected("status")),
        }
    }

    /// The process that holds the machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Ends the machine, and has its process go on to its own end.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had ended by itself before; the process ends all the same.
    pub fn stop(&self) -> Result<(), Error> {
        match self.ask(&Ask::Stop, None)? {
            (Answer::Stopped { before: None }, _) => Ok(()),
            (Answer::Stopped { before: Some(end) }, _) => Err(end.into_error()),
            _ => Err(unexpected("stop")),
        }
    }

    /// Opens a stream that begins with these frames.
    pub(crate) fn line(&self, frames: &[u8]) -> Result<Line, Error> {
        let mut stream = self.stream(&Ask::Dial)?;
        // A guest that has ended has ended the stream: whoever reads it is told why.
        let _ = stream.write_all(frames);
        Ok(Line { stream, witness: Witness::There(self.clone()) })
    }

    /// Whether the process is there, as far as can be told without asking it.
    pub(crate) fn is_there(&self) -> bool {
        match self.inner.socket.try_lock() {
            Ok(place) => place.as_ref().is_some_and(|socket| !is_hung_up(socket)),
            // Somebody asks, and will learn it.
            Err(_) => true,
        }
    }

    /// Why streams end, if that is known.
    pub(crate) fn look(&self) -> Result<Option<End>, Error> {
        match self.ask(&Ask::Look, self.inner.limit)? {
            (Answer::Seen(end), _) => Ok(end),
            _ => Err(unexpected("look")),
        }
    }

    pub(crate) fn console(&self) -> Result<Vec<u8>, Error> {
        match self.ask(&Ask::Console, self.inner.limit)? {
            (Answer::Console(bytes), _) => Ok(bytes),
            _ => Err(unexpected("console")),
        }
    }

    /// The processor time that the guest has used, and its exits.
    pub(crate) fn usage(&self) -> Result<(Duration, u64), Error> {
        match self.ask(&Ask::Usage, self.inner.limit)? {
            (Answer::Usage { cpu_time, exits }, _) => Ok((cpu_time, exits)),
            _ => Err(unexpected("usage")),
        }
    }

    /// Halts the guest.
    pub(crate) fn pause(&self) -> Result<(), Error> {
        self.done("pause", &Ask::Pause)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.done("resume", &Ask::Resume)
    }

    fn done(&self, request: &'static str, ask: &Ask) -> Result<(), Error> {
        match self.ask(ask, self.inner.limit)? {
            (Answer::Done, _) => Ok(()),
            (Answer::Failed { reason }, _) => {
                // What a guest that has ended cannot do fails for that.
                Err(self.look()?.map_or(Error::WorkerFailed { reason }, End::into_error))
            }
            _ => Err(unexpected(request)),
        }
    }

    pub(crate) fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        let mut outcome = self.stream(&Ask::Snapshot { name: name.to_owned() })?;
        let taken = match read_message(&mut outcome, None) {
            Ok(Answer::Snapshotted(taken)) => taken,
            Ok(Answer::Failed { reason }) => return Err(Error::WorkerFailed { reason }),
            Ok(Answer::Seen(Some(End::Stopped))) => return Err(Error::Stopped),
            Ok(_) => return Err(unexpected("snapshot")),
            // The process has ended, or the client would have been answered.
            Err(_) => return Err(self.gone()),
        };
        let Taken { store, digest, stopped, took } = taken;
        let store = PathBuf::from(std::ffi::OsString::from_vec(store));
        let cache = paths::cache_dir().ok_or(Error::NoCacheDir)?;
        let image = Image::open(Source::open(&store)?, digest, &cache)?;
        Ok(Snapshotted { image, stopped: Timings::of_step("stopped", stopped), took })
    }

    /// Asks for something that is answered by a stream.
    fn stream(&self, ask: &Ask) -> Result<UnixStream, Error> {
        match self.ask(ask, self.inner.limit)? {
            (Answer::Stream, Some(fd)) => Ok(fd.into()),
            // It was sent, and this process has no room for it.
            (Answer::Stream, None) => {
                let source = io::Error::from_raw_os_error(libc::EMFILE);
                Err(MachineError::Stream { source }.into())
            }
            (Answer::Refused { errno }, _) => {
                let source = io::Error::from_raw_os_error(errno.into());
                Err(MachineError::Stream { source }.into())
            }
            (Answer::Failed { reason }, _) => Err(Error::WorkerFailed { reason }),
            _ => Err(unexpected("stream")),
        }
    }

    /// Asks, and waits for the answer. After a failure nothing can be asked any more, since nobody
    /// knows what the next answer belongs to.
    fn ask(&self, ask: &Ask, limit: Option<Duration>) -> Result<(Answer, Option<OwnedFd>), Error> {
        let mut place = self.inner.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut socket) = place.take() else { return Err(self.gone()) };
        let done = socket
            .set_read_timeout(limit)
            .and_then(|()| match socket.write_all(&ask.to_frame()) {
                // Whoever hung up may have said why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                done => done,
            })
            .map_err(|source| self.failed(source))
            .and_then(|()| self.receive(&mut socket));
        if done.is_ok() {
            *place = Some(socket);
        }
        match done? {
            // Whatever was asked, there is no machine any more to ask it of.
            (Answer::Seen(Some(End::Stopped)), _) if *ask != Ask::Look => Err(Error::Stopped),
            answer => Ok(answer),
        }
    }

    fn receive(&self, socket: &mut UnixStream) -> Result<(Answer, Option<OwnedFd>), Error> {
        let mut header = [0; HEADER_SIZE];
        let (count, fd) = loop {
            match sys::receive(socket, &mut header) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok((0, _)) => return Err(self.gone()),
                done => break done.map_err(|source| self.failed(source))?,
            }
        };
        let rest = header.get_mut(count..).unwrap_or_default();
        socket.read_exact(rest).map_err(|source| self.failed(source))?;
        let protocol = |source| Error::WorkerProtocol { source };
        let header = Header::decode(header).map_err(protocol)?;
        let mut payload = vec![0; header.length];
        socket.read_exact(&mut payload).map_err(|source| self.failed(source))?;
        Ok((Answer::decode(header.kind, &payload).map_err(protocol)?, fd))
    }

    fn gone(&self) -> Error {
        if self.inner.is_over.load(Ordering::Acquire) { Error::Stopped } else { Error::WorkerGone }
    }

    fn failed(&self, source: io::Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WouldBlock};
        match source.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => self.gone(),
            WouldBlock => {
                let source = io::ErrorKind::TimedOut.into();
                Error::Worker { path: self.inner.path.clone(), source }
            }
            _ => Error::Worker { path: self.inner.path.clone(), source },
        }
    }
}

impl Dial for Client {
    fn dial(&self, request: &Request) -> io::Result<UnixStream> {
        let line = self.line(&request.to_frame()).map_err(crate::agent::io_error)?;
        Ok(line.stream)
    }

    fn has_ended(&self) -> bool {
        use super::State;
        !matches!(
            self.status().map(|status| status.state),
            Ok(State::Running | State::Paused | State::Ended { .. })
        )
    }
}

fn unexpected(request: &'static str) -> Error {
    Error::UnexpectedReply { request }
}
