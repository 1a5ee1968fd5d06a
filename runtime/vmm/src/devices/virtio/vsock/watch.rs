//! The thread that watches the host ends of connections: `sm-vsock`, one per machine.
//!
//! Owns the epoll descriptor and the thread, not the connections: it tells a [`Watcher`] what
//! happened at which connection. Started with the first connection, ended and joined by
//! [`Watch::stop`]. Events are edge-triggered, so a stream that cannot be served now (no credit,
//! no buffers, closed on one side) does not keep the thread busy; whoever removes the obstacle
//! goes on with the stream.
//!
//! Locks: `gate` is held by whoever touches the device from outside of the guest, and so by this
//! thread while it tells of an event; who holds it keeps the others out. It comes before the
//! device's lock. `thread` guards starting and stopping; it may be taken under the device's lock,
//! and no other lock is taken under it.

use std::fmt::Debug;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::connection::Key;

const THREAD_NAME: &str = "sm-vsock";
/// The event of the descriptor that ends the thread; no connection has host port zero.
const STOP: u64 = 0;
/// Events fetched at once.
const BATCH: usize = 32;

/// Whom the thread tells.
pub(super) trait Watcher: Debug + Send + Sync {
    /// Bytes or an end came up at a connection's host end, or room for more; `hung` if the host
    /// has closed it.
    fn stirred(&self, key: Key, room: bool, hung: bool);
}

/// The watched host ends.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: Arc<Epoll>,
    end: EventFd,
    watcher: OnceLock<Weak<dyn Watcher>>,
    gate: Arc<Mutex<()>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    /// Watches nothing yet, with no thread.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        let end = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        epoll.ctl(ControlOperation::Add, end.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
        let (watcher, gate, thread) = (OnceLock::new(), Arc::default(), Mutex::new(None));
        Ok(Self { epoll, end, watcher, gate, thread })
    }

    /// Keeps everyone else outside of the guest from the device.
    pub(super) fn enter(&self) -> MutexGuard<'_, ()> {
        enter(&self.gate)
    }

    /// Says whom to tell; the first call counts.
    pub(super) fn set_watcher(&self, watcher: Weak<dyn Watcher>) {
        self.watcher.get_or_init(|| watcher);
    }

    /// Watches a host end for bytes and its end.
    pub(super) fn add(&self, key: Key, stream: &UnixStream) -> io::Result<()> {
        let events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.control(ControlOperation::Add, key, stream, events)
    }

    /// Watches a host end for room as well, from now on.
    pub(super) fn add_room(&self, key: Key, stream: &UnixStream, added: bool) -> io::Result<()> {
        let events =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let operation = if added { ControlOperation::Modify } else { ControlOperation::Add };
        self.control(operation, key, stream, events)
    }

    /// Starts the thread, if it does not run.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let epoll = Arc::clone(&self.epoll);
            let watcher: Weak<dyn Watcher> =
                self.watcher.get().cloned().ok_or(io::ErrorKind::NotConnected)?;
            let gate = Arc::clone(&self.gate);
            let watch = move || watch(&epoll, &gate, &watcher);
            *thread = Some(Builder::new().name(THREAD_NAME.into()).spawn(watch)?);
        }
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Writing fails only if the counter is full, and then the thread is told already. A
        // thread that panicked has nothing left to wait for.
        let _ = self.end.write(1);
        let _ = thread.map(JoinHandle::join);
    }

    fn control(
        &self,
        operation: ControlOperation,
        key: Key,
        stream: &UnixStream,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, stream.as_raw_fd(), EpollEvent::new(events, key.pack()))
    }
}

fn enter(gate: &Mutex<()>) -> MutexGuard<'_, ()> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(epoll: &Epoll, gate: &Mutex<()>, watcher: &Weak<dyn Watcher>) {
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        for event in events.iter().take(count) {
            if event.data() == STOP {
                return;
            }
            let Some(watcher) = watcher.upgrade() else { return };
            let events = event.event_set();
            let (room, hung) = (events.contains(EventSet::OUT), events.contains(EventSet::HANG_UP));
            let _inside = enter(gate);
            watcher.stirred(Key::unpack(event.data()), room, hung);
        }
    }
}
