//! The thread that waits for the host's side of all devices: `sm-events`, one per machine.
//!
//! Starts with the first event source that needs it. Dropping the [`EventLoop`] stops and joins it.
//! Events are edge-triggered, so a source that a device cannot serve now does not keep the thread
//! busy. The code that removes the obstacle resumes the work.
//!
//! Locks: every caller from outside of the guest holds `gate` while it uses a device, and so does
//! this thread while it serves an event. Holding the gate keeps the devices still. It comes before a
//! device's lock. `thread` and `sources` may be taken under a device's lock, and nothing is taken
//! under them.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use crate::os::{Interest, Poller, Readiness, Trigger, Waker};

const THREAD_NAME: &str = "sm-events";
/// The token of the waker that stops the thread.
const STOP: u64 = 0;

/// Serves the event sources of one device.
pub(crate) trait EventHandler: Debug + Send + Sync {
    /// The source with this token has input, room, or a closed other end.
    fn ready(&self, token: u64, readiness: Readiness);
}

/// A machine's event loop.
#[derive(Debug)]
pub(crate) struct EventLoop {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    poller: Poller,
    stop: Waker,
    gate: Mutex<()>,
    sources: Mutex<Sources>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The registered sources, by the token that the poller reports. Tokens are never reused, so an
/// event that was fetched before its source went away is ignored.
#[derive(Debug, Default)]
struct Sources {
    last: u64,
    handlers: BTreeMap<u64, (Weak<dyn EventHandler>, u64)>,
}

/// All devices stand still while this is alive, as far as the host drives them.
#[derive(Debug)]
pub(crate) struct FreezeGuard<'a> {
    _gate: MutexGuard<'a, ()>,
}

impl EventLoop {
    /// A loop without sources or a thread.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let (poller, stop) = (Poller::new()?, Waker::new()?);
        poller.add(&stop, STOP, Interest::Input, Trigger::Edge)?;
        let shared = Shared {
            poller,
            stop,
            gate: Mutex::default(),
            sources: Mutex::default(),
            thread: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where one device registers its sources.
    pub(crate) fn device(&self) -> DeviceEvents {
        DeviceEvents { shared: Arc::clone(&self.shared), handler: Arc::default() }
    }

    /// Keeps this thread and all other callers from outside of the guest away from the devices.
    pub(crate) fn hold(&self) -> FreezeGuard<'_> {
        FreezeGuard { _gate: lock(&self.shared.gate) }
    }

    /// Starts the thread, if it does not run.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(crate) fn start(&self) -> io::Result<()> {
        Shared::start(&self.shared)
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.shared.stop.wake();
        let thread = lock(&self.shared.thread).take();
        // A thread that panicked has nothing left to wait for.
        let _ = thread.map(JoinHandle::join);
    }
}

/// Registers the event sources of one device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceEvents {
    shared: Arc<Shared>,
    handler: Arc<OnceLock<Weak<dyn EventHandler>>>,
}

impl DeviceEvents {
    /// Sets the device that serves the sources. Only the first call counts.
    pub(crate) fn set_handler(&self, handler: Weak<dyn EventHandler>) {
        self.handler.get_or_init(|| handler);
    }

    /// Registers a descriptor. Its events reach the device with `token` once the loop runs.
    ///
    /// # Errors
    /// The kernel has no room, or the device is not complete yet.
    pub(crate) fn register(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<Source> {
        let handler = self.handler.get().cloned().ok_or(io::ErrorKind::NotConnected)?;
        let id = lock(&self.shared.sources).add(handler, token);
        let source = Source { shared: Arc::clone(&self.shared), id };
        self.shared.poller.add(descriptor, id, interest, Trigger::Edge)?;
        Ok(source)
    }

    /// Starts the loop, if it does not run.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(crate) fn start(&self) -> io::Result<()> {
        Shared::start(&self.shared)
    }

    /// Has the device serve an event of its own, on this thread, which holds no lock of a device. Nothing
    /// happens once the device is gone.
    pub(crate) fn deliver(&self, token: u64) {
        let _held = lock(&self.shared.gate);
        if let Some(handler) = self.handler.get().and_then(Weak::upgrade) {
            let readiness = Readiness { readable: true, writable: false, hung_up: false };
            handler.ready(token, readiness);
        }
    }
}

/// A registered event source. Dropping it drops its events.
#[derive(Debug)]
pub(crate) struct Source {
    shared: Arc<Shared>,
    id: u64,
}

impl Source {
    /// Changes what the descriptor is watched for.
    ///
    /// # Errors
    /// The descriptor is not the registered one.
    pub(crate) fn set_interest(
        &self,
        descriptor: &impl AsRawFd,
        interest: Interest,
    ) -> io::Result<()> {
        self.shared.poller.modify(descriptor, self.id, interest, Trigger::Edge)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        lock(&self.shared.sources).handlers.remove(&self.id);
    }
}

impl Sources {
    fn add(&mut self, handler: Weak<dyn EventHandler>, token: u64) -> u64 {
        self.last += 1;
        self.handlers.insert(self.last, (handler, token));
        self.last
    }
}

impl Shared {
    fn start(shared: &Arc<Self>) -> io::Result<()> {
        let mut thread = lock(&shared.thread);
        if thread.is_none() {
            let shared = Arc::clone(shared);
            *thread = Some(Builder::new().name(THREAD_NAME.into()).spawn(move || shared.run())?);
        }
        Ok(())
    }

    fn run(&self) {
        loop {
            let Ok(events) = self.poller.wait(None) else { return };
            for (id, readiness) in events {
                if id == STOP {
                    return;
                }
                self.serve(id, readiness);
            }
        }
    }

    fn serve(&self, id: u64, readiness: Readiness) {
        let _held = lock(&self.gate);
        // Looked up under the gate, because its holder may have dropped the source.
        let found = lock(&self.sources).handlers.get(&id).cloned();
        if let Some((handler, token)) = found
            && let Some(handler) = handler.upgrade()
        {
            handler.ready(token, readiness);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
