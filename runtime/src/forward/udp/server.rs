//! The thread of one UDP forward: `sm-forward`.
//!
//! It owns the host's socket, the flows, and the poller that waits for all of them. When it is
//! stopped, or the machine is gone, it closes them and exits. Events are level-triggered, and each is
//! answered with a bounded number of datagrams, so that every flow gets its turn.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use supermachine_formats::wire::{Datagram, HEADER_SIZE, MAX_DATAGRAM, Request};
use supermachine_vmm::{Interest, Poller, Readiness, Trigger};

use super::flow::Flow;
use crate::forward::dialer::Dialer;
use crate::forward::relay::{Relay, SOURCE, STOP};
use crate::os::{self, Route};

/// Datagrams of clients before the flows get their turn.
const TURNS: u32 = 64;
/// A frame, and a byte that shows that a datagram is too long.
const SCRATCH: usize = HEADER_SIZE + MAX_DATAGRAM + 1;

/// The bounds of a forward.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most flows.
    pub(super) flows: usize,
    /// How long a flow lasts without a datagram in either direction.
    pub(super) idle: Duration,
}

/// A place for a flow. The generation marks stale events of earlier flows.
#[derive(Debug, Default)]
struct FlowSlot {
    generation: u32,
    flow: Option<Flow>,
}

/// What became of a flow that a datagram needs.
enum Opening {
    Opened(usize),
    /// There is no room for it now.
    Dropped,
    /// The machine is gone.
    Over,
}

/// A forward's server. See the module.
#[derive(Debug)]
pub(super) struct Server {
    poller: Poller,
    socket: UdpSocket,
    guest_port: u16,
    limits: Limits,
    dialer: Weak<Dialer>,
    slots: Vec<FlowSlot>,
    free: Vec<usize>,
    routes: HashMap<Route, usize>,
    now: Instant,
    /// No flow is idle for too long before then.
    sweep_at: Option<Instant>,
    scratch: Vec<u8>,
}

impl Server {
    /// Starts to serve a socket that does not block, for a port of the guest.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub(super) fn start(
        (socket, guest_port): (UdpSocket, u16),
        limits: Limits,
        dialer: &Arc<Dialer>,
    ) -> io::Result<Relay> {
        let (source, weak) = (socket.as_raw_fd(), Arc::downgrade(dialer));
        Relay::run(dialer, source, move |poller| {
            let server = Self {
                poller,
                socket,
                guest_port,
                limits,
                dialer: weak,
                slots: Vec::new(),
                free: Vec::new(),
                routes: HashMap::new(),
                now: Instant::now(),
                sweep_at: None,
                scratch: vec![0; SCRATCH],
            };
            server.serve();
        })
    }

    fn serve(mut self) {
        loop {
            let Ok(events) = self.poller.wait(self.timeout()) else { return };
            self.now = Instant::now();
            for (token, readiness) in events {
                let continues = match token {
                    STOP => false,
                    SOURCE => self.receive(),
                    token => self.handle(token, readiness),
                };
                if !continues {
                    return;
                }
            }
            self.sweep();
        }
    }

    /// Receives datagrams of clients. Returns whether the server continues.
    fn receive(&mut self) -> bool {
        for _ in 0..TURNS {
            let buffer = self.scratch.get_mut(HEADER_SIZE..).unwrap_or_default();
            match os::receive_from(&self.socket, buffer) {
                Ok((length, route)) if length <= MAX_DATAGRAM => {
                    if !self.pass_on(route, length) {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Over IPv6 it may be longer than the guest's side can be.
                Ok(_) | Err(_) => {}
            }
        }
        true
    }

    /// Sends the datagram in the buffer to the guest. Returns whether the server continues.
    fn pass_on(&mut self, route: Route, length: usize) -> bool {
        let index = match self.routes.get(&route) {
            Some(index) => *index,
            None => match self.open(route) {
                Opening::Opened(index) => index,
                Opening::Dropped => return true,
                Opening::Over => return false,
            },
        };
        let Some(flow) = self.slots.get_mut(index).and_then(|slot| slot.flow.as_mut()) else {
            return true;
        };
        let Some(frame) = self.scratch.get_mut(..HEADER_SIZE + length) else { return true };
        if let Some(header) = frame.first_chunk_mut() {
            *header = Datagram::header(length);
        }
        let was_flushed = flow.is_flushed();
        flow.used = self.now;
        match flow.send(frame) {
            Ok(()) if was_flushed && !flow.is_flushed() => self.watch(index),
            Ok(()) => true,
            Err(_) => self.lose(index),
        }
    }

    /// Opens a flow for a client.
    fn open(&mut self, route: Route) -> Opening {
        let Some(dialer) = self.dialer.upgrade() else { return Opening::Over };
        if (self.routes.len() >= self.limits.flows || dialer.is_full()) && !self.evict() {
            return Opening::Dropped;
        }
        let slot = dialer.slot();
        let guest = match dialer.dial(&Request::Datagrams { port: self.guest_port }) {
            Ok(guest) => guest,
            Err(_) if dialer.is_over() => return Opening::Over,
            Err(_) => return Opening::Dropped,
        };
        let flow = Flow::new(route, guest, slot, self.now);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(FlowSlot::default());
            self.slots.len() - 1
        });
        let Some(place) = self.slots.get_mut(index) else { return Opening::Dropped };
        let token = token(index, place.generation);
        let descriptor = flow.descriptor();
        if self.poller.add(&descriptor, token, Interest::Input, Trigger::Level).is_err() {
            self.free.push(index);
            return Opening::Dropped;
        }
        place.flow = Some(flow);
        self.routes.insert(route, index);
        self.sweep_at.get_or_insert(self.now + self.limits.idle);
        Opening::Opened(index)
    }

    /// Handles an event of a flow. Returns whether the server continues.
    fn handle(&mut self, token: u64, readiness: Readiness) -> bool {
        let Some((index, generation)) = parse(token) else { return true };
        let place = self.slots.get_mut(index).filter(|place| place.generation == generation);
        let Some(flow) = place.and_then(|place| place.flow.as_mut()) else { return true };
        let mut result = Ok(());
        let was_flushed = flow.is_flushed();
        if readiness.readable || readiness.hung_up {
            let (route, socket, now) = (flow.route, &self.socket, self.now);
            let mut any = false;
            result = flow.receive(&mut self.scratch, |payload| {
                any = true;
                // A client that cannot be reached or has no room loses its datagram.
                let _ = os::send_back(socket, payload, &route);
            });
            if any {
                flow.used = now;
            }
        }
        if readiness.writable && result.is_ok() {
            result = flow.flush();
        }
        match result {
            Ok(()) if flow.is_flushed() != was_flushed => self.watch(index),
            Ok(()) => true,
            Err(_) => self.lose(index),
        }
    }

    /// Waits for room in a flow's stream exactly while frames are queued. Returns whether the server
    /// continues.
    fn watch(&mut self, index: usize) -> bool {
        let Some(place) = self.slots.get(index) else { return true };
        let Some(flow) = &place.flow else { return true };
        let interest = if flow.is_flushed() { Interest::Input } else { Interest::InputAndRoom };
        let token = token(index, place.generation);
        match self.poller.modify(&flow.descriptor(), token, interest, Trigger::Level) {
            Ok(()) => true,
            Err(_) => self.lose(index),
        }
    }

    /// Removes a flow whose stream has closed. Returns whether the machine is there.
    fn lose(&mut self, index: usize) -> bool {
        self.remove(index);
        self.dialer.upgrade().is_some_and(|dialer| !dialer.is_over())
    }

    /// Makes room for a flow. Returns whether there was one to remove.
    fn evict(&mut self) -> bool {
        let oldest = self.flows().min_by_key(|(_, flow)| (flow.is_answered, flow.used));
        let Some((index, _)) = oldest else { return false };
        self.remove(index);
        true
    }

    /// Removes the flows that have been idle for too long, when it may be time.
    fn sweep(&mut self) {
        if self.sweep_at.is_none_or(|at| self.now < at) {
            return;
        }
        let end = |flow: &Flow| flow.used + self.limits.idle;
        let due: Vec<usize> = self
            .flows()
            .filter(|(_, flow)| end(flow) <= self.now)
            .map(|(index, _)| index)
            .collect();
        due.into_iter().for_each(|index| self.remove(index));
        self.sweep_at = self.flows().map(|(_, flow)| flow.used + self.limits.idle).min();
    }

    fn remove(&mut self, index: usize) {
        let Some(place) = self.slots.get_mut(index) else { return };
        if let Some(flow) = place.flow.take() {
            place.generation = place.generation.wrapping_add(1);
            self.routes.remove(&flow.route);
            self.free.push(index);
        }
    }

    fn flows(&self) -> impl Iterator<Item = (usize, &Flow)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, place)| Some((index, place.flow.as_ref()?)))
    }

    fn timeout(&self) -> Option<Duration> {
        self.sweep_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// The token of a flow's events.
fn token(index: usize, generation: u32) -> u64 {
    // Greater than the other two tokens.
    let place = index as u64 + 2;
    u64::from(generation) << 32 | (place & u64::from(u32::MAX))
}

fn parse(token: u64) -> Option<(usize, u32)> {
    let place = token & u64::from(u32::MAX);
    let index = usize::try_from(place.checked_sub(2)?).ok()?;
    Some((index, u32::try_from(token >> 32).ok()?))
}
