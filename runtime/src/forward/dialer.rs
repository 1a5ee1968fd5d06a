//! Opens the streams of a machine's forwards, until it is closed.
//!
//! A forward may outlive its machine, or the use of a machine that is reset. So it holds its
//! [`Dialer`] weakly, and asks it for each stream. Invariant: no stream is opened after
//! [`Dialer::close`] has returned.
//!
//! Lock: `state` is held while a stream is opened; the device's locks are taken under it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use supermachine_formats::wire::{Message, Request};
use supermachine_vmm::Waker;

use crate::Error;
use crate::machine::MachineHandle;

/// The limit on a machine's forwarded connections and flows. Commands and files get the rest of its 1,024
/// streams.
const MAX_LINKS: usize = if cfg!(test) { 128 } else { 768 };

/// Opens streams for forwards. See the module.
#[derive(Debug)]
pub(crate) struct Dialer {
    machine: Arc<dyn MachineHandle>,
    state: Mutex<State>,
    /// Counts the connections of all forwards, by its references.
    slot: Arc<()>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    /// Woken when this is closed.
    forwards: Vec<Weak<Waker>>,
}

impl Dialer {
    /// A dialer for the forwards of this machine.
    pub(crate) fn new(machine: &Arc<dyn MachineHandle>) -> Arc<Self> {
        let machine = Arc::clone(machine);
        Arc::new(Self { machine, state: Mutex::default(), slot: Arc::default() })
    }

    /// Closes this: forwards close their listeners and connections.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        for forward in state.forwards.drain(..).filter_map(|forward| forward.upgrade()) {
            forward.wake();
        }
    }

    /// Opens a stream with a request on it.
    pub(super) fn dial(&self, request: &Request) -> Result<UnixStream, Error> {
        let state = self.state();
        if state.is_closed {
            return Err(Error::Stopped);
        }
        self.machine.dial(&request.to_frame())
    }

    /// A reference for a connection to hold.
    pub(super) fn slot(&self) -> Arc<()> {
        Arc::clone(&self.slot)
    }

    /// Whether the limit on connections is reached. Forwards that ask at the same time may each
    /// exceed it by one.
    pub(super) fn is_full(&self) -> bool {
        Arc::strong_count(&self.slot) > MAX_LINKS
    }

    /// Whether the machine is out of reach for good.
    pub(super) fn is_over(&self) -> bool {
        self.state().is_closed || self.machine.exit().is_some()
    }

    /// Registers a forward to be woken when this is closed.
    pub(super) fn wake_at_end(&self, forward: &Arc<Waker>) {
        let mut state = self.state();
        state.forwards.retain(|known| known.strong_count() > 0);
        state.forwards.push(Arc::downgrade(forward));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.close();
    }
}
