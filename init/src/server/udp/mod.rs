//! UDP flows of the guest, carried on streams of the host.
//!
//! Owns the table of flows. A stream moves here with its request, and stays; [`flow`] moves its
//! datagrams. The host decides how many flows there are and when one ends: it closes the stream.
//! Invariant: no flow waits for another, and none holds more than a frame in each direction. The
//! kernel's sockets hold the rest, and drop what does not fit.

mod flow;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;

use self::flow::Flow;
use super::slab::{Key, Slab};
use super::stream::{Stream, refuse};
use super::token::{Side, Token};
use crate::failure::failure;
use crate::sys::poll::{EDGES, Epoll, EventFlags, HANG_UP, READABLE, WRITABLE};
use crate::sys::tcp::Loopback;
use crate::sys::{Result, udp};

/// The events of a host's stream.
const ALL: EventFlags = READABLE.union(WRITABLE).union(HANG_UP).union(EDGES);

/// All flows. See the module.
#[derive(Debug)]
pub(super) struct Udp {
    flows: Slab<Flow>,
}

impl Udp {
    pub(super) fn new() -> Self {
        Self { flows: Slab::new() }
    }

    /// Serves a stream from its request for a port on.
    pub(super) fn open(&mut self, port: u16, stream: Stream, epoll: &Epoll, scratch: &mut [u8]) {
        let (stream, inbox, is_watched) = stream.into_parts();
        if is_watched && epoll.remove(&stream).is_err() {
            return;
        }
        let opened = udp::connect(Loopback::V4, port)
            .or_else(|errno| udp::connect(Loopback::V6, port).map_err(|_| errno));
        let socket = match opened {
            Ok(socket) => socket,
            Err(errno) => {
                return refuse(&stream, failure("socket", format!("port {port}"), errno));
            }
        };
        let key = self.flows.reserve();
        let flow = Flow::new((stream, inbox), socket, port);
        match watch(&flow, key, epoll) {
            Ok(()) => self.advance(key, flow, epoll, scratch),
            Err(_) => self.flows.put(key, None),
        }
    }

    /// Handles an event of a flow.
    pub(super) fn serve(
        &mut self,
        key: Key,
        (side, events): (Side, EventFlags),
        epoll: &Epoll,
        scratch: &mut [u8],
    ) {
        let Some(mut flow) = self.flows.take(key) else { return };
        flow.hear(side, events);
        self.advance(key, flow, epoll, scratch);
    }

    /// Closes every flow, as their streams no longer exist after a restore.
    pub(super) fn close_all(&mut self) {
        let keys: Vec<Key> = self.flows.iter().map(|(key, _)| key).collect();
        for key in keys {
            drop(self.flows.take(key));
            self.flows.put(key, None);
        }
    }

    /// Makes progress on a flow, and puts it back unless it is done.
    fn advance(&mut self, key: Key, mut flow: Flow, epoll: &Epoll, scratch: &mut [u8]) {
        let watch =
            |socket: &_| epoll.add(socket, READABLE | EDGES, Token::Udp(key, Side::Guest).pack());
        let alive = match flow.advance(scratch, watch) {
            Ok(false) => true,
            // It could continue, but others get their turn: its stream is reported again.
            Ok(true) => epoll.modify(flow.host(), ALL, Token::Udp(key, Side::Host).pack()).is_ok(),
            Err(_) => false,
        };
        self.flows.put(key, alive.then_some(flow));
    }
}

fn watch(flow: &Flow, key: Key, epoll: &Epoll) -> Result<()> {
    epoll.add(flow.host(), ALL, Token::Udp(key, Side::Host).pack())?;
    epoll.add(flow.guest(), READABLE | EDGES, Token::Udp(key, Side::Guest).pack())
}
