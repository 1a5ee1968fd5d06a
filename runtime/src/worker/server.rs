//! The server of a worker.
//!
//! The caller's thread accepts clients. Each client has a thread, `sm-client`, until it
//! disconnects. Each snapshot has a thread, `sm-snapshot`, so its client can use the machine
//! meanwhile. When a client stops the machine, its thread drops the machine, and then all
//! connections are closed.
//!
//! Locks: `machine` is read-locked while a request is served, and write-locked to stop the machine;
//! `watch`, taken under it, guards the stream that reports the entrypoint's exit; `clients` and
//! `stoppers` guard lists, and are taken alone.

use std::any::Any;
use std::collections::HashMap;
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

use super::message::{MAX_LABEL, SnapshotTaken, VERSION, WorkerReply, WorkerRequest};
use super::status::State;
use crate::agent::{Frames, read_message};
use crate::error::{HostError, PortError};
use crate::live::TakenSnapshot;
use crate::machine::{MachineHandle, StreamError};
use crate::os::{self, SocketFile};
use crate::{Error, ExitStatus};

const THREAD_NAME: &str = "sm-client";
const SNAPSHOT_THREAD_NAME: &str = "sm-snapshot";
/// The limit on connections.
const MAX_CLIENTS: usize = 256;
/// The timeout of a client's greeting.
const GREETING: Duration = Duration::from_secs(30);
/// The backoff without descriptors or threads.
const PAUSE: Duration = Duration::from_millis(100);
/// How often to check that clients can still connect, in milliseconds.
const LOOK_MS: i32 = if cfg!(test) { 100 } else { 10_000 };
/// The size of one read from the agent.
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
/// let stopped = server.serve(vm, "a label")?;
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
    /// Creates the socket file, with mode 0600. It replaces an abandoned socket file, and nothing
    /// else.
    ///
    /// # Errors
    /// [`Error::Port`] when the file exists or cannot be created.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = SocketFile::bind(path).map_err(|source| Error::Port {
            source: PortError::Listen { address: path.display().to_string(), source },
        })?;
        Ok(Self { file })
    }

    /// Serves the machine of this handle, which stops when its owner is dropped.
    pub(crate) fn serve_machine(
        self,
        handle: Arc<dyn MachineHandle>,
        owner: Box<dyn Any + Send + Sync>,
        label: String,
    ) -> Result<Stopped, Error> {
        self.serve_hosted(Hosted::new(handle, owner), label)
    }

    pub(super) fn serve_hosted(self, machine: Hosted, mut label: String) -> Result<Stopped, Error> {
        label.truncate(label.floor_char_boundary(MAX_LABEL));
        let failed = Error::stream;
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(failed)?;
        let epoll = Epoll::new().map_err(failed)?;
        let readable = |token| EpollEvent::new(EventSet::IN, token);
        let listener = self.file.listener();
        for (fd, token) in [(stop.as_raw_fd(), STOP), (listener.as_raw_fd(), LISTENER)] {
            epoll.ctl(ControlOperation::Add, fd, readable(token)).map_err(failed)?;
        }
        let shared = Arc::new(Shared::new(machine, label, stop));
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

/// Serves a machine to its only client, until that disconnects or stops the machine.
pub(super) fn serve_one(client: UnixStream, machine: Hosted) -> io::Result<()> {
    let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    let shared = Arc::new(Shared::new(machine, String::new(), stop));
    if let Some((mut client, answer)) = shared.serve(client) {
        // A client that did not wait needs no reply.
        say(&mut client, &answer);
    }
    Ok(())
}

/// Greets a client. `None`: it is gone, or of another version.
pub(super) fn greet(client: &mut UnixStream) -> Option<()> {
    client.set_read_timeout(Some(GREETING)).ok()?;
    let Ok(WorkerRequest::Hello { version }) = read_message(client, None) else { return None };
    client.set_read_timeout(None).ok()?;
    say(client, &WorkerReply::Hello { version: VERSION })?;
    (version == VERSION).then_some(())
}

/// A machine that a client has stopped. Dropping this sends the client its reply.
#[derive(Debug)]
#[must_use = "the client that stopped the machine is answered when this is dropped"]
pub struct Stopped {
    stoppers: Vec<(UnixStream, WorkerReply)>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (client, answer) in &mut self.stoppers {
            // A client that did not wait needs no reply.
            let _ = client.write_all(&answer.to_frame());
        }
    }
}

/// A machine with what keeps it running.
#[derive(Debug)]
pub(super) struct Hosted {
    handle: Arc<dyn MachineHandle>,
    /// Stops the machine when it is dropped.
    _owner: Box<dyn Any + Send + Sync>,
}

impl Hosted {
    pub(super) fn new(handle: Arc<dyn MachineHandle>, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self { handle, _owner: owner }
    }
}

/// The shared state of a server's threads.
#[derive(Debug)]
struct Shared {
    /// `None` once it was stopped.
    machine: RwLock<Option<Hosted>>,
    label: String,
    watch: Mutex<EntrypointWatch>,
    /// Whether a client paused the guest. Written after the guest has changed.
    is_paused: AtomicBool,
    /// The connections by their numbers, to close them.
    clients: Mutex<HashMap<u64, UnixStream>>,
    stoppers: Mutex<Vec<(UnixStream, WorkerReply)>>,
    /// Set once the machine was stopped.
    stop: EventFd,
}

impl Shared {
    fn new(machine: Hosted, label: String, stop: EventFd) -> Self {
        Self {
            watch: Mutex::new(EntrypointWatch::new(&machine.handle)),
            machine: RwLock::new(Some(machine)),
            label,
            is_paused: AtomicBool::new(false),
            clients: Mutex::default(),
            stoppers: Mutex::default(),
            stop,
        }
    }

    /// Starts to serve a client. Beyond the limit, a client is refused; another user's is
    /// disconnected.
    fn take_in(self: &Arc<Self>, number: u64, mut client: UnixStream) {
        let is_trusted = os::peer(&client).is_ok_and(os::is_trusted);
        let Ok(handle) = client.try_clone() else { return };
        let mut clients = lock(&self.clients);
        if !is_trusted {
            return;
        }
        if clients.len() >= MAX_CLIENTS {
            say(&mut client, &WorkerReply::Refused { errno: EUSERS });
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
                // A full counter stops the server as well.
                let _ = shared.stop.write(1);
            }
        };
        if thread::Builder::new().name(THREAD_NAME.into()).spawn(serve).is_err() {
            lock(&self.clients).remove(&number);
        }
    }

    /// Serves a greeted client until it disconnects or stops the machine.
    fn serve(self: &Arc<Self>, mut client: UnixStream) -> Option<(UnixStream, WorkerReply)> {
        loop {
            let answered = match read_message(&mut client, None).ok()? {
                WorkerRequest::Stop => return Some((client, self.end())),
                WorkerRequest::Dial => self.with(Self::dial),
                WorkerRequest::Snapshot { name } => self.begin_snapshot(name).map_err(|source| {
                    failed(&Error::Host { source: HostError::Stream { source } })
                }),
                ask => self.with(|machine| Err(self.answer(machine, ask))),
            };
            match answered {
                Ok(stream) => hand_over(&mut client, &stream)?,
                Err(answer) => say(&mut client, &answer)?,
            }
        }
    }

    /// Uses the machine, or answers that it was stopped.
    fn with<T>(
        &self,
        act: impl FnOnce(&dyn MachineHandle) -> Result<T, WorkerReply>,
    ) -> Result<T, WorkerReply> {
        let machine = self.machine.read().unwrap_or_else(PoisonError::into_inner);
        let stopped = Err(WorkerReply::Seen(Some(StreamError::Stopped)));
        machine.as_ref().map_or(stopped, |machine| act(machine.handle.as_ref()))
    }

    fn dial(machine: &dyn MachineHandle) -> Result<UnixStream, WorkerReply> {
        machine.dial(&[]).map_err(|error| WorkerReply::Refused { errno: errno(&error) })
    }

    /// Starts a snapshot. The stream delivers its result.
    fn begin_snapshot(self: &Arc<Self>, name: String) -> io::Result<UnixStream> {
        let (theirs, mut ours) = UnixStream::pair()?;
        let shared = Arc::clone(self);
        let take = move || {
            let snapshot = |machine: &dyn MachineHandle| {
                machine.snapshot(&name).map(taken).map_err(|error| failed(&error))
            };
            let answer = shared.with(snapshot).map_or_else(|end| end, WorkerReply::Snapshotted);
            say(&mut ours, &answer);
        };
        thread::Builder::new().name(SNAPSHOT_THREAD_NAME.into()).spawn(take)?;
        Ok(theirs)
    }

    fn answer(&self, machine: &dyn MachineHandle, ask: WorkerRequest) -> WorkerReply {
        match ask {
            WorkerRequest::Look => WorkerReply::Seen(machine.exit()),
            WorkerRequest::Console => WorkerReply::Console(machine.console().unwrap_or_default()),
            WorkerRequest::Usage => match machine.usage() {
                Ok((cpu_time, exits)) => WorkerReply::Usage { cpu_time, exits },
                Err(error) => failed(&error),
            },
            WorkerRequest::Status => {
                let state = match lock(&self.watch).state(machine) {
                    State::Running | State::EntrypointExited { .. }
                        if self.is_paused.load(Ordering::Acquire) =>
                    {
                        State::Paused
                    }
                    state => state,
                };
                WorkerReply::Status { label: self.label.clone(), state }
            }
            WorkerRequest::Pause => self.changed(machine.pause(), true),
            WorkerRequest::Resume => self.changed(machine.resume(), false),
            WorkerRequest::Hello { .. } => WorkerReply::Hello { version: VERSION },
            WorkerRequest::Start(_) => {
                WorkerReply::Failed { reason: "the machine has been started".into() }
            }
            // The caller handles these.
            WorkerRequest::Dial | WorkerRequest::Snapshot { .. } | WorkerRequest::Stop => {
                WorkerReply::Refused { errno: EPROTO }
            }
        }
    }

    /// The reply to a pause or a resume.
    fn changed(&self, done: Result<(), Error>, is_paused: bool) -> WorkerReply {
        match done {
            Ok(()) => {
                self.is_paused.store(is_paused, Ordering::Release);
                WorkerReply::Done
            }
            Err(error) => failed(&error),
        }
    }

    /// Stops the machine.
    fn end(&self) -> WorkerReply {
        let machine = self.machine.write().unwrap_or_else(PoisonError::into_inner).take();
        let before = machine.and_then(|machine| machine.handle.exit());
        WorkerReply::Stopped { before }
    }

    /// Closes all connections but those of clients that stopped the machine.
    fn finish(&self) -> Stopped {
        for client in lock(&self.clients).values() {
            // It fails for one that is closed already.
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        Stopped { stoppers: std::mem::take(&mut *lock(&self.stoppers)) }
    }
}

/// The entrypoint's exit, as far as it is known.
#[derive(Debug)]
struct EntrypointWatch {
    /// The stream that reports it; `None` without an entrypoint, or after the report.
    stream: Option<UnixStream>,
    frames: Frames,
    ended: Option<ExitStatus>,
}

impl EntrypointWatch {
    fn new(machine: &Arc<dyn MachineHandle>) -> Self {
        let stream = machine.dial(&Request::WaitEntrypoint.to_frame()).ok();
        Self { stream, frames: Frames::default(), ended: None }
    }

    fn state(&mut self, machine: &dyn MachineHandle) -> State {
        if let Some(StreamError::Guest { failure, console }) = machine.exit() {
            return State::Failed { failure, console };
        }
        self.take_arrived();
        self.ended.map_or(State::Running, |status| State::EntrypointExited { status })
    }

    /// Processes what has arrived.
    fn take_arrived(&mut self) {
        let mut space = [0; PIECE];
        while let Some(stream) = &self.stream {
            match os::receive(stream, &mut space) {
                Ok(count @ 1..) => self.frames.push(&space[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => self.stream = None,
            }
            match self.frames.next::<Reply>() {
                Ok(None) => {}
                Ok(Some(Reply::Exited(exit))) => {
                    self.ended = Some(ExitStatus(exit.status));
                    self.stream = None;
                }
                // There is no entrypoint, or the agent broke the protocol.
                _ => self.stream = None,
            }
        }
    }
}

/// Sends a reply. `None`: the client is gone.
pub(super) fn say(client: &mut UnixStream, answer: &WorkerReply) -> Option<()> {
    client.write_all(&answer.to_frame()).ok()
}

/// Passes a stream to a client. `None`: the client is gone.
fn hand_over(client: &mut UnixStream, stream: &UnixStream) -> Option<()> {
    let frame = WorkerReply::Stream.to_frame();
    // A few bytes to a waiting client are sent whole.
    let sent = client.send_with_fd(frame.as_slice(), stream.as_raw_fd());
    sent.ok().filter(|count| *count == frame.len()).map(drop)
}

/// The reply for a snapshot.
fn taken(snapshot: TakenSnapshot) -> SnapshotTaken {
    let store = snapshot.image.source().path();
    let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    SnapshotTaken {
        store: store.as_os_str().as_bytes().to_vec(),
        digest: snapshot.image.digest(),
        stopped: snapshot.stopped.total(),
        took: snapshot.took,
    }
}

const EPROTO: u16 = 71;
const EUSERS: u16 = 87;
const EBUSY: u16 = 16;
const ENOTCONN: u16 = 107;
const EIO: u16 = 5;

/// The error number for a stream that cannot be opened.
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
pub(super) fn failed(error: &Error) -> WorkerReply {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    WorkerReply::Failed { reason }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
