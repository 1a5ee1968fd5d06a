//! The server of a worker.
//!
//! The caller's thread accepts clients. Each client has a thread, `sm-client`, until it
//! disconnects. Each snapshot or capture has a thread, `sm-snapshot`, so its client can use the
//! machine meanwhile. When a client stops the machine, its thread drops the machine, and then all
//! connections are closed.
//!
//! Locks: `machine` is read-locked while a request is served, and write-locked to stop or replace the
//! machine; `label`, and `watch`, which guards the stream that reports the entrypoint's exit, are taken
//! under it; `clients` and `stoppers` guard lists, and are taken alone.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use supermachine_formats::wire::Message;
use supermachine_vmm::{Interest, MachineError, Poller, Trigger, Waker};

use super::capture;
use super::ends::{MAX_END_FILES, MAX_ENDS};
use super::entrypoint::EntrypointWatch;
use super::message::{MAX_LABEL, VERSION, WorkerReply, WorkerRequest};
use super::parcel::Parcel;
use super::status::State;
use crate::agent::read_message;
use crate::error::PortError;
use crate::live::{self, TakenSnapshot};
use crate::machine::{MachineHandle, StoredSnapshot, StreamError};
use crate::os::{self, SocketFile};
use crate::{Error, Image};

const THREAD_NAME: &str = "sm-client";
const SNAPSHOT_THREAD_NAME: &str = "sm-snapshot";
/// The limit on connections.
const MAX_CLIENTS: usize = 256;
/// The timeout of a client's greeting.
const GREETING: Duration = Duration::from_secs(30);
/// The backoff without descriptors or threads.
const PAUSE: Duration = Duration::from_millis(100);
/// How often to check that clients can still connect.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

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

    /// Makes a machine ready to be served.
    pub(crate) fn prepare_hosted(self, machine: Hosted, label: String) -> Result<Serving, Error> {
        let failed = Error::stream;
        let (poller, stop) = (Poller::new().map_err(failed)?, Waker::new().map_err(failed)?);
        poller.add(&stop, STOP, Interest::Input, Trigger::Level).map_err(failed)?;
        let listener = self.file.listener();
        poller.add(listener, LISTENER, Interest::Input, Trigger::Level).map_err(failed)?;
        let shared = Arc::new(Shared::new(machine, label, stop));
        Ok(Serving { file: self.file, poller, shared, is_reachable: None })
    }
}

/// A machine that is about to be served; see [`Server::prepare`].
pub struct Serving {
    file: SocketFile,
    poller: Poller,
    shared: Arc<Shared>,
    /// Whether clients can still connect. `None` looks at the socket file.
    is_reachable: Option<Box<dyn Fn() -> bool + Send>>,
}

impl Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Serving {
    /// What other threads can change while the machine is served.
    #[must_use]
    pub fn control(&self) -> Control {
        Control { shared: Arc::clone(&self.shared) }
    }

    /// Asks `is_reachable` now and then whether clients can still connect, instead of looking at the
    /// socket file: for a file that is moved meanwhile.
    #[must_use]
    pub fn reachable_while(mut self, is_reachable: impl Fn() -> bool + Send + 'static) -> Self {
        self.is_reachable = Some(Box::new(is_reachable));
        self
    }

    /// Serves the machine until a client stops it, or no client can connect any more.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn run(self) -> Result<Stopped, Error> {
        let Self { file, poller, shared, is_reachable } = self;
        let is_reachable = || match &is_reachable {
            Some(is_reachable) => is_reachable(),
            None => file.is_in_place(),
        };
        let mut number = 0;
        loop {
            let mut events = poller.wait(Some(LOOK)).map_err(Error::stream)?.peekable();
            if events.peek().is_none() {
                if !is_reachable() && lock(&shared.clients).is_empty() {
                    shared.end();
                    break;
                }
                continue;
            }
            if events.any(|(token, _)| token == STOP) {
                break;
            }
            number += 1;
            match file.listener().accept() {
                Ok((client, _)) => shared.take_in(number, client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(PAUSE),
            }
        }
        Ok(shared.finish())
    }
}

/// What other threads can change while a machine is served.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Changes the label that clients get.
    pub fn set_label(&self, label: impl Into<String>) {
        *lock(&self.shared.label) = shortened(label.into());
    }

    /// The machine's handle. `None` once the machine was stopped.
    pub(crate) fn handle(&self) -> Option<Arc<dyn MachineHandle>> {
        let machine = self.shared.machine.read().unwrap_or_else(PoisonError::into_inner);
        machine.as_ref().map(|machine| Arc::clone(&machine.handle))
    }

    /// Serves another machine from now on, and stops the present one.
    pub(crate) fn replace_hosted(&self, machine: Hosted, label: String) -> Result<(), Error> {
        let mut present = self.shared.machine.write().unwrap_or_else(PoisonError::into_inner);
        if present.is_none() {
            return Err(Error::Stopped);
        }
        *lock(&self.shared.watch) = EntrypointWatch::new(&machine.handle);
        *lock(&self.shared.label) = shortened(label);
        self.shared.is_paused.store(false, Ordering::Release);
        let old = present.replace(machine);
        drop(present);
        // Clients must not wait for its end.
        drop(old);
        Ok(())
    }
}

fn shortened(mut label: String) -> String {
    label.truncate(label.floor_char_boundary(MAX_LABEL));
    label
}

/// Serves a machine to its only client, until that disconnects or stops the machine.
pub(super) fn serve_one(client: UnixStream, machine: Hosted) -> io::Result<()> {
    let stop = Waker::new()?;
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

/// What keeps a hosted machine running. Dropping it stops the machine.
pub(crate) trait Owner: Debug + Send + Sync {
    /// Resets the machine for its next user, who has this host name and these ends, and returns the
    /// handle for that. After an error the machine must not be used.
    fn reset(
        &mut self,
        _hostname: Option<&str>,
        _ends: Parcel,
    ) -> Result<Arc<dyn MachineHandle>, Error> {
        Err(MachineError::Unresettable.into())
    }
}

/// A machine with what keeps it running.
#[derive(Debug)]
pub(crate) struct Hosted {
    handle: Arc<dyn MachineHandle>,
    /// What the machine started from; `None` in a worker, which has no store.
    image: Option<Image>,
    owner: Box<dyn Owner>,
}

impl Hosted {
    pub(crate) fn new(
        handle: Arc<dyn MachineHandle>,
        image: Option<Image>,
        owner: Box<dyn Owner>,
    ) -> Self {
        Self { handle, image, owner }
    }
}

/// The shared state of a server's threads.
#[derive(Debug)]
struct Shared {
    /// `None` once it was stopped.
    machine: RwLock<Option<Hosted>>,
    label: Mutex<String>,
    watch: Mutex<EntrypointWatch>,
    /// Whether a client paused the guest. Written after the guest has changed.
    is_paused: AtomicBool,
    /// The connections by their numbers, to close them.
    clients: Mutex<HashMap<u64, UnixStream>>,
    stoppers: Mutex<Vec<(UnixStream, WorkerReply)>>,
    /// Set once the machine was stopped.
    stop: Waker,
}

impl Shared {
    fn new(machine: Hosted, label: String, stop: Waker) -> Self {
        Self {
            watch: Mutex::new(EntrypointWatch::new(&machine.handle)),
            machine: RwLock::new(Some(machine)),
            label: Mutex::new(shortened(label)),
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
                shared.stop.wake();
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
                WorkerRequest::Snapshot { name } => {
                    self.begin(move |shared, outcome| shared.snapshot(&name, outcome))
                }
                WorkerRequest::Capture => self.begin(|shared, outcome| shared.capture(outcome)),
                // The parts that follow it are of no use.
                WorkerRequest::Start { .. } => return None,
                WorkerRequest::Reset { hostname } => {
                    let ends = Parcel::receive(&mut client, MAX_ENDS, MAX_END_FILES).ok()?;
                    Err(self.reset(hostname.as_deref(), ends))
                }
                ask => self.with(|machine| Err(self.answer(machine.handle.as_ref(), ask))),
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
        act: impl FnOnce(&Hosted) -> Result<T, WorkerReply>,
    ) -> Result<T, WorkerReply> {
        let machine = self.machine.read().unwrap_or_else(PoisonError::into_inner);
        let stopped = Err(WorkerReply::Seen(Some(StreamError::Stopped)));
        machine.as_ref().map_or(stopped, act)
    }

    fn dial(machine: &Hosted) -> Result<UnixStream, WorkerReply> {
        machine.handle.dial(&[]).map_err(|error| WorkerReply::Refused { errno: errno(&error) })
    }

    /// Resets the machine for the next user of the same client.
    fn reset(&self, hostname: Option<&str>, ends: Parcel) -> WorkerReply {
        let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
        let Some(machine) = machine.as_mut() else {
            return WorkerReply::Seen(Some(StreamError::Stopped));
        };
        match machine.owner.reset(hostname, ends) {
            Ok(handle) => {
                *lock(&self.watch) = EntrypointWatch::new(&handle);
                self.is_paused.store(false, Ordering::Release);
                machine.handle = handle;
                WorkerReply::Done
            }
            Err(error) => failed(&error),
        }
    }

    /// Starts what takes long, on its own thread. The stream delivers the outcome.
    fn begin(
        self: &Arc<Self>,
        act: impl FnOnce(&Self, &mut UnixStream) + Send + 'static,
    ) -> Result<UnixStream, WorkerReply> {
        let (theirs, mut ours) = UnixStream::pair().map_err(refused)?;
        let shared = Arc::clone(self);
        let act = move || act(&shared, &mut ours);
        let thread = thread::Builder::new().name(SNAPSHOT_THREAD_NAME.into());
        thread.spawn(act).map_err(refused)?;
        Ok(theirs)
    }

    /// Stores a snapshot of the machine.
    fn snapshot(&self, name: &str, outcome: &mut UnixStream) {
        let take = |machine: &Hosted| {
            let taken = live::take(machine.handle.as_ref(), machine.image.as_ref(), name);
            taken.map(stored).map_err(|error| failed(&error))
        };
        let answer = self.with(take).map_or_else(|end| end, WorkerReply::Snapshotted);
        say(outcome, &answer);
    }

    /// Captures the machine for the client to store.
    fn capture(&self, outcome: &mut UnixStream) {
        let take = |machine: &Hosted| {
            let machine = machine.handle.keep_alive().ok_or(Error::Stopped);
            let captured = machine.and_then(|machine| Ok(machine.capture_live()?));
            captured.map_err(|error| failed(&error))
        };
        let packed = self.with(take).and_then(|captured| {
            let stopped = captured.stopped.total();
            let parcel = capture::pack(captured).map_err(refused)?;
            Ok((stopped, parcel))
        });
        match packed {
            Ok((stopped, parcel)) => {
                if say(outcome, &WorkerReply::Captured { stopped }).is_some() {
                    // A client that is gone needs no capture.
                    let _ = parcel.send(outcome);
                }
            }
            Err(answer) => drop(say(outcome, &answer)),
        }
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
                WorkerReply::Status { label: lock(&self.label).clone(), state }
            }
            WorkerRequest::Pause => self.changed(machine.pause(), true),
            WorkerRequest::Resume => self.changed(machine.resume(), false),
            WorkerRequest::Hello { .. } => WorkerReply::Hello { version: VERSION },
            // The caller handles these.
            WorkerRequest::Dial
            | WorkerRequest::Snapshot { .. }
            | WorkerRequest::Capture
            | WorkerRequest::Start { .. }
            | WorkerRequest::Reset { .. }
            | WorkerRequest::Stop => WorkerReply::Refused { errno: EPROTO },
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

/// Sends a reply. `None`: the client is gone.
pub(super) fn say(client: &mut UnixStream, answer: &WorkerReply) -> Option<()> {
    client.write_all(&answer.to_frame()).ok()
}

/// Passes a stream to a client. `None`: the client is gone.
fn hand_over(client: &mut UnixStream, stream: &UnixStream) -> Option<()> {
    let frame = WorkerReply::Stream.to_frame();
    os::send_with_descriptors(client, &frame, &[stream.as_fd()]).ok()
}

/// The reply for a snapshot.
fn stored(snapshot: TakenSnapshot) -> StoredSnapshot {
    let store = snapshot.image.source().path();
    StoredSnapshot {
        store: std::path::absolute(store).unwrap_or_else(|_| store.to_owned()),
        digest: snapshot.image.digest(),
        stopped: snapshot.stopped.total(),
        took: snapshot.took,
    }
}

/// The reply when this host denies a resource.
fn refused(source: io::Error) -> WorkerReply {
    failed(&Error::stream(source))
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
