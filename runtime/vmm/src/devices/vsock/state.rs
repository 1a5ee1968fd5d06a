//! The device's state: the guest's address, its control connection, and the ports of the others.
//!
//! The state records no more of other connections: their callers are gone when a machine continues
//! elsewhere, and the device resets them as soon as the guest runs.

use supermachine_formats::snapshot::device as formats;
use supermachine_formats::wire::CONTROL_PORT;

use super::connection::{Connection, Key};
use super::device::{FIRST_PORT, MAX_CONNECTIONS, Sockets, pair};
use crate::devices::device::Device;
use crate::devices::error::DeviceError;
use crate::devices::event_loop::DeviceEvents;
use crate::devices::mmio::fresh_transport;

/// Context ids below are reserved; those above 32 bits do not exist, and the last is "any".
const GUEST_CIDS: std::ops::Range<u64> = 3..u32::MAX as u64;

/// A socket device that no driver has found yet.
pub(crate) fn fresh_vsock(guest_cid: u64) -> formats::Slot {
    let state = formats::Vsock { guest_cid, next_port: FIRST_PORT, connections: Vec::new() };
    formats::Slot::Vsock(fresh_transport::<Sockets>(), state)
}

fn illegal(field: &'static str, found: u64) -> DeviceError {
    DeviceError::Field { device: Sockets::NAME, field, found }
}

fn host(operation: &'static str) -> impl Fn(std::io::Error) -> DeviceError {
    move |source| DeviceError::Host { device: Sockets::NAME, operation, source }
}

impl Sockets {
    /// Restores the device.
    pub(super) fn restore(
        state: &formats::Vsock,
        events: DeviceEvents,
    ) -> Result<Self, DeviceError> {
        if !GUEST_CIDS.contains(&state.guest_cid) {
            return Err(illegal("guest cid", state.guest_cid));
        }
        if state.next_port < FIRST_PORT {
            return Err(illegal("next port", state.next_port.into()));
        }
        let mut device = Self::new(state.guest_cid, state.next_port, events);
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

    /// The state that goes into a snapshot.
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

/// The record of a connection that the guest must forget.
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
