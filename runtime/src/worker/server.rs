//! The side of the process that holds a machine.
//!
//! The caller's thread waits for clients; each of them has a thread, `sm-client`, which ends with
//! its connection. A snapshot is taken by a thread of its own, `sm-snapshot`, so that its client can
//! go on to use the machine. When a client asks for the machine's end, its thread ends it, and then all
//! connections are closed.
//!
//! Locks, each taken by itself but for `guest`, under which `watch` is: `guest` is held for reading
//! while a client is served, and for writing by who ends the machine; `watch` guards the stream
//! that tells of the entrypoint's end; `clients` and `stoppers` guard lists.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use supermachine_formats::wire::{Message, Reply, Request};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::message::{Answer, Ask, MAX_LABEL, Taken, VERSION};
use super::{State, sys};
use crate::agent::{End, Frames, Line, read_message};
use crate::forward::SocketFile;
use crate::{Error, ExitStatus, Vm};
use supermachine_vmm::receive_now;

const THREAD_NAME: &str = "sm-client";
const SNAPSHOT_THREAD_NAME: &str = "sm-snapshot";
/// The most connections at once.
const MAX_CLIENTS: usize = 256;
/// How long a client may take to say who it is.
const GREETING: Duration = Duration::from_secs(30);
/// How long a process without descriptors or threads is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How often to look whether anybody can still come, in milliseconds.
const LOOK_MS: i32 = if cfg!(test) { 100 } else { 10_000 };
/// What is read at once of what the agent says of the entrypoint.
const PIECE: usize = 4 << 10;

const STOP: u64 = 0;
const LISTENER: u64 = 1;

/// Serves a machine to other processes of this user, at a socket file.
///
/// ```no_run
/// use supermachine::worker::Server;
/// use supermachine::{Image, VmConfig};
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let server = Server::bind("/run/user/1000/app/machine.sock")?;
/// let vm = Image::from_store("snapshots", "nginx")?.start(&VmConfig::new())?;
/// let stopped = server.serve(vm, "what clients are told")?;
/// // The machine has ended. Who asked for that learns it now.
/// drop(stopped);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    file: SocketFile,
}

impl Server {
    /// Makes the socket file, with mode 0600. One that nobody listens on is replaced, anything
    /// else is not.
    ///
    /// # Errors
    /// [`Error::Listen`] when the file is there or cannot be made.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = SocketFile::bind(path)
            .map_err(|source| Error::Listen { address: path.display().to_string(), source })?;
        Ok(Self { file })
    }

    /// Serves the machine until a client asks for its end, or nobody can any more: the socket file
    /// is gone, and no client is connected. `label` is told to each client that asks for the status;
    /// what is beyond 64 KiB is cut off. A guest that ends by itself does not end this.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn serve(self, vm: Vm, label: impl Into<String>) -> Result<Stopped, Error> {
        self.serve_guest(Box::new(vm), label.into())
    }

    pub(super) fn serve_guest(
        self,
        guest: Box<dyn Guest>,
        mut label: String,
    ) -> Result<Stopped, Error> {
        label.truncate(label.floor_char_boundary(MAX_LABEL));
        let failed = |source| Error::Stream { source };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(failed)?;
        let epoll = Epoll::new().map_err(failed)?;
        let readable = |token| EpollEvent::new(EventSet::IN, token);
        let listener = self.file.listener();
        for (fd, token) in [(stop.as_raw_fd(), STOP), (listener.as_raw_fd(), LISTENER)] {
            epoll.ctl(ControlOperation::Add, fd, readable(token)).map_err(failed)?;
        }
        let shared = Arc::new(Shared::new(guest, label, stop));
        let mut events = [EpollEvent::default(); 2];
        let mut number = 0;
        loop {
            match epoll.wait(LOOK_MS, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(failed(source)),
                Ok(0) => {
                    if !self.file.is_in_place() && lock(&shared.clients).is_empty() {
                        shared.end();
                        break;
                    }
                    continue;
                }
                Ok(count) => {
                    if events.iter().take(count).any(|event| event.data() == STOP) {
                        break;
                    }
                }
            }
            number += 1;
            match listener.accept() {
                Ok((client, _)) => shared.take_in(number, client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(PAUSE),
            }
        }
        Ok(shared.finish())
    }
}

/// Serves a machine to the one client that there will be, until it is gone or asks for the end.
pub(super) fn serve_one(client: UnixStream, guest: Box<dyn Guest>) -> io::Result<()> {
    let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    let shared = Arc::new(Shared::new(guest, String::new(), stop));
    if let Some((mut client, answer)) = shared.serve(client) {
        // Who did not wait need not be told.
        say(&mut client, &answer);
    }
    Ok(())
}

/// Greets a client; none if it is gone, or of another version.
pub(super) fn greet(client: &mut UnixStream) -> Option<()> {
    client.set_read_timeout(Some(GREETING)).ok()?;
    let Ok(Ask::Hello { version }) = read_message(client, None) else { return None };
    client.set_read_timeout(None).ok()?;
    say(client, &Answer::Hello { version: VERSION })?;
    (version == VERSION).then_some(())
}

/// A machine that has ended because a client asked for it. That client is told when this is
/// dropped.
#[derive(Debug)]
#[must_use = "who asked for the end is told when this is dropped"]
pub struct Stopped {
    stoppers: Vec<(UnixStream, Answer)>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (client, answer) in &mut self.stoppers {
            // Who did not wait need not be told.
            let _ = client.write_all(&answer.to_frame());
        }
    }
}

/// What a worker does with its machine.
pub(super) trait Guest: Debug + Send + Sync {
    /// Opens a stream that begins with these frames.
    fn dial(&self, frames: &[u8]) -> Result<Line, Error>;

    /// Why streams end, if that is known.
    fn look(&self) -> Option<End>;

    fn console(&self) -> Vec<u8>;

    fn usage(&self) -> Result<(Duration, u64), Error>;

    fn snapshot(&self, name: &str) -> Result<Taken, Error>;

    fn pause(&self) -> Result<(), Error>;

    fn resume(&self) -> Result<(), Error>;
}

impl Guest for Vm {
    fn dial(&self, frames: &[u8]) -> Result<Line, Error> {
        self.dial(frames)
    }

    fn look(&self) -> Option<End> {
        self.holder().look()
    }

    fn console(&self) -> Vec<u8> {
        self.console()
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        self.usage()
    }

    fn snapshot(&self, name: &str) -> Result<Taken, Error> {
        let done = self.snapshot(name)?;
        let store = done.image.source().path();
        let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
        Ok(Taken {
            store: store.as_os_str().as_bytes().to_vec(),
            digest: done.image.digest(),
            stopped: done.stopped.total(),
            took: done.took,
        })
    }

    fn pause(&self) -> Result<(), Error> {
        self.pause()
    }

    fn resume(&self) -> Result<(), Error> {
        self.resume()
    }
}

/// What the threads of a server have in common.
#[derive(Debug)]
struct Shared {
    /// None once it was ended.
    guest: RwLock<Option<Box<dyn Guest>>>,
    label: String,
    watch: Mutex<Watch>,
    /// Whether a client paused the guest. Written after the guest has changed.
    is_paused: AtomicBool,
    /// The connections by their numbers, to end them with.
    clients: Mutex<HashMap<u64, UnixStream>>,
    stoppers: Mutex<Vec<(UnixStream, Answer)>>,
    /// Set once the machine was ended.
    stop: EventFd,
}

impl Shared {
    fn new(guest: Box<dyn Guest>, label: String, stop: EventFd) -> Self {
        Self {
            watch: Mutex::new(Watch::new(guest.as_ref())),
            guest: RwLock::new(Some(guest)),
            label,
            is_paused: AtomicBool::new(false),
            clients: Mutex::default(),
            stoppers: Mutex::default(),
            stop,
        }
    }

    /// Begins to serve a client. One too many is refused, one of another user finds its connection
    /// closed.
    fn take_in(self: &Arc<Self>, number: u64, mut client: UnixStream) {
        let is_trusted = sys::peer(&client).is_ok_and(sys::is_trusted);
        let Ok(handle) = client.try_clone() else { return };
        let mut clients = lock(&self.clients);
        if !is_trusted {
            return;
        }
        if clients.len() >= MAX_CLIENTS {
            say(&mut client, &Answer::Refused { errno: EUSERS });
            return;
        }
        clients.insert(number, handle);
        drop(clients);
        let shared = Arc::clone(self);
        let serve = move || {
            let stopper = greet(&mut client).and_then(|()| shared.serve(client));
            lock(&shared.clients).remove(&number);
            if let Some(stopper) = stopper {
                lock(&shared.stoppers).push(stopper);
                // It fails only if the counter is full, and then the server is told already.
                let _ = shared.stop.write(1);
            }
        };
        if thread::Builder::new().name(THREAD_NAME.into()).spawn(serve).is_err() {
            lock(&self.clients).remove(&number);
        }
    }

    /// Serves a client that was greeted to its end, or to the machine's if it asks for that.
    fn serve(self: &Arc<Self>, mut client: UnixStream) -> Option<(UnixStream, Answer)> {
        loop {
            let answered = match read_message(&mut client, None).ok()? {
                Ask::Stop => return Some((client, self.end())),
                Ask::Dial => self.with(Self::dial),
                Ask::Snapshot { name } => {
                    self.begin_snapshot(name).map_err(|source| failed(&Error::Stream { source }))
                }
                ask => self.with(|guest| Err(self.answer(guest, ask))),
            };
            match answered {
                Ok(stream) => hand_over(&mut client, &stream)?,
                Err(answer) => say(&mut client, &answer)?,
            }
        }
    }

    /// Does something with the guest; that it was ended is an answer, too.
    fn with<T>(&self, act: impl FnOnce(&dyn Guest) -> Result<T, Answer>) -> Result<T, Answer> {
        let guest = self.guest.read().unwrap_or_else(PoisonError::into_inner);
        guest.as_ref().map_or(Err(Answer::Seen(Some(End::Stopped))), |guest| act(guest.as_ref()))
    }

    fn dial(guest: &dyn Guest) -> Result<UnixStream, Answer> {
        match guest.dial(&[]) {
            Ok(line) => Ok(line.stream),
            Err(error) => Err(Answer::Refused { errno: errno(&error) }),
        }
    }

    /// Has a snapshot taken. What became of it comes out of the stream.
    fn begin_snapshot(self: &Arc<Self>, name: String) -> io::Result<UnixStream> {
        let (theirs, mut ours) = UnixStream::pair()?;
        let shared = Arc::clone(self);
        let take = move || {
            let snapshot = |guest: &dyn Guest| guest.snapshot(&name).map_err(|e| failed(&e));
            let answer = shared.with(snapshot).map_or_else(|end| end, Answer::Snapshotted);
            say(&mut ours, &answer);
        };
        thread::Builder::new().name(SNAPSHOT_THREAD_NAME.into()).spawn(take)?;
        Ok(theirs)
    }

    fn answer(&self, guest: &dyn Guest, ask: Ask) -> Answer {
        match ask {
            Ask::Look => Answer::Seen(guest.look()),
            Ask::Console => Answer::Console(guest.console()),
            Ask::Usage => match guest.usage() {
                Ok((cpu_time, exits)) => Answer::Usage { cpu_time, exits },
                Err(error) => failed(&error),
            },
            Ask::Status => {
                let state = match lock(&self.watch).state(guest) {
                    State::Running if self.is_paused.load(Ordering::Acquire) => State::Paused,
                    state => state,
                };
                Answer::Status { label: self.label.clone(), state }
            }
            Ask::Pause => self.changed(guest.pause(), true),
            Ask::Resume => self.changed(guest.resume(), false),
            Ask::Hello { .. } => Answer::Hello { version: VERSION },
            Ask::Start(_) => Answer::Failed { reason: "the machine has been started".into() },
            // They are carried out by the caller.
            Ask::Dial | Ask::Snapshot { .. } | Ask::Stop => Answer::Refused { errno: EPROTO },
        }
    }

    /// The answer to a pause or its end.
    fn changed(&self, done: Result<(), Error>, is_paused: bool) -> Answer {
        match done {
            Ok(()) => {
                self.is_paused.store(is_paused, Ordering::Release);
                Answer::Done
            }
            Err(error) => failed(&error),
        }
    }

    /// Ends the machine.
    fn end(&self) -> Answer {
        let guest = self.guest.write().unwrap_or_else(PoisonError::into_inner).take();
        let before = guest.and_then(|guest| guest.look());
        Answer::Stopped { before }
    }

    /// Closes all connections but those of clients who asked for the end.
    fn finish(&self) -> Stopped {
        for client in lock(&self.clients).values() {
            // One that has ended already needs no end.
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        Stopped { stoppers: std::mem::take(&mut *lock(&self.stoppers)) }
    }
}

/// What is known of the entrypoint's end.
#[derive(Debug)]
struct Watch {
    /// The stream that tells of it; none if there is nothing to be told, or it was.
    line: Option<Line>,
    frames: Frames,
    ended: Option<ExitStatus>,
}

impl Watch {
    fn new(guest: &dyn Guest) -> Self {
        let line = guest.dial(&Request::WaitEntrypoint.to_frame()).ok();
        Self { line, frames: Frames::default(), ended: None }
    }

    fn state(&mut self, guest: &dyn Guest) -> State {
        if let Some(End::Guest { failure, console }) = guest.look() {
            return State::Failed { failure, console };
        }
        self.take_arrived();
        self.ended.map_or(State::Running, |status| State::Ended { status })
    }

    /// Takes in what has arrived.
    fn take_arrived(&mut self) {
        let mut space = [0; PIECE];
        while let Some(line) = &self.line {
            match receive_now(&line.stream, &mut space) {
                Ok(count @ 1..) => self.frames.push(space.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => self.line = None,
            }
            match self.frames.next::<Reply>() {
                Ok(None) => {}
                Ok(Some(Reply::Exited(exit))) => {
                    self.ended = Some(ExitStatus(exit.status));
                    self.line = None;
                }
                // A machine without an entrypoint, or an agent that is not to be understood.
                _ => self.line = None,
            }
        }
    }
}

/// Answers a client; none if it is gone.
pub(super) fn say(client: &mut UnixStream, answer: &Answer) -> Option<()> {
    client.write_all(&answer.to_frame()).ok()
}

/// Hands a stream to a client; none if it is gone.
fn hand_over(client: &mut UnixStream, stream: &UnixStream) -> Option<()> {
    let frame = Answer::Stream.to_frame();
    // A few bytes to a client that waits for them go out whole.
    let sent = client.send_with_fd(frame.as_slice(), stream.as_raw_fd());
    sent.ok().filter(|count| *count == frame.len()).map(drop)
}

const EPROTO: u16 = 71;
const EUSERS: u16 = 87;
const EBUSY: u16 = 16;
const ENOTCONN: u16 = 107;
const EIO: u16 = 5;

/// The error number that stands for why no stream could be opened.
fn errno(error: &Error) -> u16 {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let number = error.raw_os_error().and_then(|number| u16::try_from(number).ok());
            return number.unwrap_or(match error.kind() {
                io::ErrorKind::NotConnected => ENOTCONN,
                io::ErrorKind::ResourceBusy => EBUSY,
                _ => EIO,
            });
        }
        source = error.source();
    }
    EIO
}

/// An error and its causes in one line.
pub(super) fn failed(error: &Error) -> Answer {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    Answer::Failed { reason }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
