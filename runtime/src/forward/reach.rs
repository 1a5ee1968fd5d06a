//! How forwards reach their machine, for as long as they may.
//!
//! A forward lives by itself: it may outlive its machine, or the use of a machine that goes back
//! to its snapshot. So it holds a [`Reach`] only weakly, and asks it for each stream. Invariant:
//! after [`Reach::close`] has returned, no stream is opened through it any more.
//!
//! Lock: `state` is held while a stream is opened; the device's locks are taken under it.

use std::fmt::Debug;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use supermachine_formats::wire::{Message, REQUEST_PORT, Request};
use vmm_sys_util::eventfd::EventFd;

use supermachine_vmm::Streams;

/// How many connections a machine's forwards have at once. The rest of the
/// 1,024 streams that a machine can have are left to commands and files.
const MAX_LINKS: usize = if cfg!(test) { 128 } else { 768 };

/// Opens streams to a guest.
pub(crate) trait Dial: Debug + Send + Sync {
    /// Opens a stream with a request on it.
    fn dial(&self, request: &Request) -> io::Result<UnixStream>;

    /// Whether the guest has ended, so that no stream leads anywhere.
    fn has_ended(&self) -> bool;
}

impl Dial for Streams {
    fn dial(&self, request: &Request) -> io::Result<UnixStream> {
        self.connect(REQUEST_PORT, &request.to_frame())
    }

    fn has_ended(&self) -> bool {
        self.has_hung_up()
    }
}

/// The way to a machine. See the module.
#[derive(Debug)]
pub(crate) struct Reach {
    guest: Box<dyn Dial>,
    state: Mutex<State>,
    /// Each connection of a forward has one.
    slot: Arc<()>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    /// Woken when the way is closed.
    forwards: Vec<Weak<EventFd>>,
}

impl Reach {
    /// The way to a machine with these streams.
    pub(crate) fn new(streams: Streams) -> Arc<Self> {
        Self::over(Box::new(streams))
    }

    pub(crate) fn over(guest: Box<dyn Dial>) -> Arc<Self> {
        Arc::new(Self { guest, state: Mutex::default(), slot: Arc::default() })
    }

    /// Closes the way: forwards close their listeners and connections.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for forward in state.forwards.drain(..).filter_map(|forward| forward.upgrade()) {
            // It fails only if the counter is full, and then the forward is told already.
            let _ = forward.write(1);
        }
    }

    /// Opens a stream with a request on it.
    pub(super) fn dial(&self, request: &Request) -> io::Result<UnixStream> {
        let state = self.state();
        if state.is_closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.guest.dial(request)
    }

    /// What a connection has for as long as it counts.
    pub(super) fn slot(&self) -> Arc<()> {
        Arc::clone(&self.slot)
    }

    /// Whether no further connection is to be made. Forwards that look at once may each make one
    /// more.
    pub(super) fn is_full(&self) -> bool {
        Arc::strong_count(&self.slot) > MAX_LINKS
    }

    /// Whether nothing can be reached any more.
    pub(super) fn is_over(&self) -> bool {
        self.state().is_closed || self.guest.has_ended()
    }

    /// Has a forward woken when the way is closed.
    pub(super) fn wake_at_end(&self, forward: &Arc<EventFd>) {
        let mut state = self.state();
        state.forwards.retain(|known| known.strong_count() > 0);
        state.forwards.push(Arc::downgrade(forward));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.close();
    }
}
