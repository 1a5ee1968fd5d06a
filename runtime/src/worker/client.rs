//! The side of those who use a machine that another process holds.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supermachine_formats::wire::{HEADER_SIZE, Header, Message, Request};

use super::message::{Answer, Ask, Taken, VERSION};
use super::{Status, sys};
use crate::agent::{End, Line, Witness};
use crate::forward::{Dial, with_short_path};
use crate::live::Snapshotted;
use crate::machine::MachineError;
use crate::pack::Source;
use crate::{Error, Image, Timings, Vm, paths};

/// How long a worker may take for what it can tell at once.
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
        let socket = Mutex::new(Some(socket));
        let inner = Inner { path: path.to_owned(), pid: peer.pid, socket };
        let client = Self { inner: Arc::new(inner) };
        match client.ask(&Ask::Hello { version: VERSION }, Some(LIMIT))? {
            (Answer::Hello { version: VERSION }, _) => Ok(client),
            (Answer::Hello { version: found }, _) => {
                Err(Error::WorkerVersion { found, supported: VERSION, pid: peer.pid })
            }
            _ => Err(unexpected("hello")),
        }
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
        match self.ask(&Ask::Status, Some(LIMIT))? {
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
        let mut stream = self.stream()?;
        // A guest that has ended has ended the stream: whoever reads it is told why.
        let _ = stream.write_all(frames);
        Ok(Line { stream, witness: Witness::There(self.clone()) })
    }

    /// Why streams end, if that is known.
    pub(crate) fn look(&self) -> Result<Option<End>, Error> {
        match self.ask(&Ask::Look, Some(LIMIT))? {
            (Answer::Seen(end), _) => Ok(end),
            _ => Err(unexpected("look")),
        }
    }

    pub(crate) fn console(&self) -> Result<Vec<u8>, Error> {
        match self.ask(&Ask::Console, Some(LIMIT))? {
            (Answer::Console(bytes), _) => Ok(bytes),
            _ => Err(unexpected("console")),
        }
    }

    /// The processor time that the guest has used, and its exits.
    pub(crate) fn usage(&self) -> Result<(Duration, u64), Error> {
        match self.ask(&Ask::Usage, Some(LIMIT))? {
            (Answer::Usage { cpu_time, exits }, _) => Ok((cpu_time, exits)),
            _ => Err(unexpected("usage")),
        }
    }

    pub(crate) fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        let taken = match self.ask(&Ask::Snapshot { name: name.to_owned() }, None)? {
            (Answer::Snapshotted(taken), _) => taken,
            (Answer::Failed { reason }, _) => return Err(Error::WorkerFailed { reason }),
            _ => return Err(unexpected("snapshot")),
        };
        let Taken { store, digest, stopped, took } = taken;
        let store = PathBuf::from(std::ffi::OsString::from_vec(store));
        let cache = paths::cache_dir().ok_or(Error::NoCacheDir)?;
        let image = Image::open(Source::open(&store)?, digest, &cache)?;
        Ok(Snapshotted { image, stopped: Timings::of_step("stopped", stopped), took })
    }

    fn stream(&self) -> Result<UnixStream, Error> {
        match self.ask(&Ask::Dial, Some(LIMIT))? {
            (Answer::Stream, Some(fd)) => Ok(fd.into()),
            (Answer::Refused { errno }, _) => {
                let source = io::Error::from_raw_os_error(errno.into());
                Err(MachineError::Stream { source }.into())
            }
            _ => Err(unexpected("dial")),
        }
    }

    /// Asks, and waits for the answer. After a failure nothing can be asked any more, since nobody
    /// knows what the next answer belongs to.
    fn ask(&self, ask: &Ask, limit: Option<Duration>) -> Result<(Answer, Option<OwnedFd>), Error> {
        let mut place = self.inner.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut socket) = place.take() else { return Err(Error::WorkerGone) };
        let done = socket
            .set_read_timeout(limit)
            .and_then(|()| socket.write_all(&ask.to_frame()))
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
                Ok((0, _)) => return Err(Error::WorkerGone),
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

    fn failed(&self, source: io::Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WouldBlock};
        match source.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Error::WorkerGone,
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
            Ok(State::Running | State::Ended { .. })
        )
    }
}

fn unexpected(request: &'static str) -> Error {
    Error::UnexpectedReply { request }
}
