//! The device's state: the guest's address and its control connection.
//!
//! Other connections are not recorded: their callers are gone when a machine goes on elsewhere,
//! and the guest is told so when it next speaks of them.

use std::sync::Arc;

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::Vsock;
use super::connection::Connection;
use super::device::{FIRST_PORT, QUEUES, Sockets, pair};
use super::watch::Watch;
use crate::machine::devices::virtio::mmio::{Mmio, fresh_transport};
use crate::machine::devices::virtio::{DeviceError, Memory};
use crate::machine::line::Line;

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
        let illegal = |field, found| DeviceError::Field { device: NAME, field, found };
        if !GUEST_CIDS.contains(&state.guest_cid) {
            return Err(illegal("guest cid", state.guest_cid));
        }
        let host = |operation| move |source| DeviceError::Host { device: NAME, operation, source };
        let watch = Arc::new(Watch::new().map_err(host("create an epoll descriptor"))?);
        if state.next_port < FIRST_PORT {
            return Err(illegal("next port", state.next_port.into()));
        }
        let mut device = Sockets::new(state.guest_cid, state.next_port, Arc::clone(&watch));
        match state.connections.as_slice() {
            [] => {}
            [control] if control.host_port == CONTROL_PORT => {
                let (ours, theirs) = pair().map_err(host("create a socket pair"))?;
                device.set_control(Connection::restored(control, ours), Some(theirs));
            }
            [other] => return Err(illegal("host port", other.host_port.into())),
            more => return Err(illegal("count of connections", more.len() as u64)),
        }
        let device = Mmio::from_state(NAME, transport, device, memory, line)?;
        if !state.connections.is_empty() && device.serve(|_, _| Ok(())).is_none() {
            return Err(illegal("status", transport.status.into()));
        }
        Ok(Self::new(device, watch))
    }
}

impl Sockets {
    /// What goes into a snapshot.
    pub(super) fn sockets_state(&self) -> formats::Vsock {
        let control = self.control.and_then(|key| self.connections.get(&key));
        let connections = control.and_then(Connection::state).into_iter().collect();
        formats::Vsock { guest_cid: self.guest_cid, next_port: self.next_port, connections }
    }
}
