//! The device's state: the guest's address, its control connection, and the names of the others.
//!
//! Of other connections no more is recorded: their callers are gone when a machine goes on
//! elsewhere, and the guest is told so as soon as it runs.

use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::Vsock;
use super::connection::{Connection, Key};
use super::device::{FIRST_PORT, MAX_CONNECTIONS, QUEUES, Sockets, pair};
use super::watch::Watch;
use crate::devices::virtio::mmio::{Mmio, fresh_transport};
use crate::devices::virtio::{DeviceError, Memory};
use crate::line::Line;

const NAME: &str = "vsock";
/// Context ids below are reserved; those above 32 bits do not exist, and the last is "any".
const GUEST_CIDS: std::ops::Range<u64> = 3..u32::MAX as u64;

/// A socket device that no driver has seen yet.
pub(crate) fn fresh_vsock(guest_cid: u64) -> formats::Slot {
    let state = formats::Vsock { guest_cid, next_port: FIRST_PORT, connections: Vec::new() };
    formats::Slot::Vsock(fresh_transport(&QUEUES), state)
}

impl Vsock {
    /// The device that a state describes.
    ///
    /// # Errors
    /// A field of the state is illegal, or the host has no sockets left.
    pub(crate) fn from_state(
        transport: &formats::Virtio,
        state: &formats::Vsock,
        memory: Arc<Memory>,
        line: Arc<dyn Line>,
    ) -> Result<Self, DeviceError> {
        let watch = Arc::new(Watch::new().map_err(host("create an epoll descriptor"))?);
        let device = Sockets::from_state(state, Arc::clone(&watch))?;
        let device = Mmio::from_state(NAME, transport, device, memory, line)?;
        if !state.connections.is_empty() && device.serve(|_, _| Ok(())).is_none() {
            return Err(illegal("status", transport.status.into()));
        }
        Ok(Self::new(device, watch))
    }

    /// Takes on a state in place. All streams end, and the control connection gets a new one.
    /// The device must be held.
    ///
    /// # Errors
    /// Those of [`Vsock::from_state`].
    pub(crate) fn reset(
        &self,
        transport: &formats::Virtio,
        state: &formats::Vsock,
        memory: Arc<Memory>,
        line: Arc<dyn Line>,
    ) -> Result<(), DeviceError> {
        let mut device = Sockets::from_state(state, Arc::clone(&self.owner.watch))?;
        // What the watching thread was told of streams that are gone must not be taken for
        // news of others: no port is used a second time.
        device.next_port = self.owner.device.with_device(|former| former.next_port);
        self.owner.device.reset(NAME, transport, device, memory, line)
    }
}

fn illegal(field: &'static str, found: u64) -> DeviceError {
    DeviceError::Field { device: NAME, field, found }
}

fn host(operation: &'static str) -> impl Fn(std::io::Error) -> DeviceError {
    move |source| DeviceError::Host { device: NAME, operation, source }
}

impl Sockets {
    fn from_state(state: &formats::Vsock, watch: Arc<Watch>) -> Result<Self, DeviceError> {
        if !GUEST_CIDS.contains(&state.guest_cid) {
            return Err(illegal("guest cid", state.guest_cid));
        }
        if state.next_port < FIRST_PORT {
            return Err(illegal("next port", state.next_port.into()));
        }
        let mut device = Self::new(state.guest_cid, state.next_port, watch);
        let mut others = state.connections.as_slice();
        if let Some((control, rest)) = others.split_first()
            && control.host_port == CONTROL_PORT
        {
            let (ours, theirs) = pair().map_err(host("create a socket pair"))?;
            device.set_control(Connection::restored(control, ours), Some(theirs));
            others = rest;
        }
        if others.len() > MAX_CONNECTIONS {
            return Err(illegal("count of connections", state.connections.len() as u64));
        }
        for other in others {
            let key = Key { host_port: other.host_port, guest_port: other.guest_port };
            if key.host_port < FIRST_PORT {
                return Err(illegal("host port", key.host_port.into()));
            }
            let credit = other.peer_buffer | other.peer_consumed | other.sent | other.consumed;
            if credit != 0 {
                return Err(illegal("credit of a connection that is gone", credit.into()));
            }
            device.gone.push_back(key);
        }
        Ok(device)
    }

    /// What goes into a snapshot.
    pub(super) fn sockets_state(&self) -> formats::Vsock {
        let control = self.control.and_then(|key| self.connections.get(&key));
        let known = self.connections.values().filter(|connection| {
            Some(connection.key) != self.control && connection.must_be_reset()
        });
        let others = self.gone.iter().copied().chain(known.map(|connection| connection.key));
        let connections =
            control.and_then(Connection::state).into_iter().chain(others.map(gone)).collect();
        formats::Vsock { guest_cid: self.guest_cid, next_port: self.next_port, connections }
    }
}

/// What tells of a connection that the guest is to forget.
fn gone(Key { host_port, guest_port }: Key) -> formats::VsockConnection {
    formats::VsockConnection {
        host_port,
        guest_port,
        peer_buffer: 0,
        peer_consumed: 0,
        sent: 0,
        consumed: 0,
    }
}
