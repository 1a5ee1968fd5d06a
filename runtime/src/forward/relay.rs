//! The thread of one TCP forward: `sm-forward`.
//!
//! It owns the listener, its connections, and the poller that waits for all of them. When
//! it is stopped, or the machine is gone, it closes them and exits. Invariants: it never blocks on
//! one connection; when the host lacks descriptors or memory, or the machine has reached its limit
//! of connections, it retries after [`PAUSE`] instead of spinning.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use supermachine_formats::wire::Request;
use supermachine_vmm::{Interest, Poller, Readiness, Trigger, Waker};

use super::dialer::Dialer;
use super::link::{Link, Outcome, SCRATCH, Side};
use crate::os;

const THREAD_NAME: &str = "sm-forward";
/// The backoff when a connection cannot be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections to accept before existing ones get their turn.
const ACCEPTS: u32 = 64;

/// The tokens of a forward's own events.
pub(super) const STOP: u64 = 0;
pub(super) const SOURCE: u64 = 1;

/// A connection's client, and the request for the guest.
pub(super) struct Arrival {
    /// `None`: the connection failed, and the guest is to close its side.
    pub(super) client: Option<OwnedFd>,
    pub(super) request: Request,
    /// Whether the client is still connecting.
    pub(super) is_connecting: bool,
}

/// A source of connections.
pub(super) trait Source: Debug + Send {
    /// The descriptor to wait for.
    fn descriptor(&self) -> RawFd;

    /// The next connection. `WouldBlock`: there is none now. `BrokenPipe`: there will be none.
    fn next(&mut self) -> io::Result<Arrival>;
}

/// A handle on a relay. Dropping it stops the thread and closes its connections.
#[derive(Debug)]
pub(super) struct Relay {
    end: Arc<Waker>,
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts to serve connections from `source`.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub(super) fn start(source: Box<dyn Source>, dialer: &Arc<Dialer>) -> io::Result<Self> {
        let (source_fd, weak) = (source.descriptor(), Arc::downgrade(dialer));
        Self::run(dialer, source_fd, move |poller| {
            let server = Server {
                poller,
                source,
                dialer: weak,
                links: Vec::new(),
                free: Vec::new(),
                again: VecDeque::new(),
                paused_until: None,
                owed: Vec::new(),
                scratch: vec![0; SCRATCH],
            };
            server.serve();
        })
    }

    /// Runs a server in the thread of a forward. Its poller reports [`SOURCE`] when the source
    /// can be read, and [`STOP`] when the server must return.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub(super) fn run(
        dialer: &Arc<Dialer>,
        source: RawFd,
        serve: impl FnOnce(Poller) + Send + 'static,
    ) -> io::Result<Self> {
        let (poller, end) = (Poller::new()?, Arc::new(Waker::new()?));
        poller.add(&*end, STOP, Interest::Input, Trigger::Level)?;
        poller.add(&source, SOURCE, Interest::Input, Trigger::Level)?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_ended);
        let serve = move || {
            serve(poller);
            // A plain flag: no other data depends on it.
            flag.store(true, Ordering::Relaxed);
        };
        let thread = Builder::new().name(THREAD_NAME.into()).spawn(serve)?;
        dialer.wake_at_end(&end);
        Ok(Self { end, has_ended, thread: Some(thread) })
    }

    /// Whether the relay has stopped.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.wake();
        // A thread that panicked has nothing left to close.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A slot for a connection. The generation marks stale events of earlier connections.
#[derive(Debug)]
struct LinkSlot {
    generation: u32,
    /// With its reference that counts it.
    link: Option<(Link, Arc<()>)>,
    /// Whether it is queued to continue without an event.
    is_queued: bool,
}

#[derive(Debug)]
struct Server {
    poller: Poller,
    source: Box<dyn Source>,
    dialer: Weak<Dialer>,
    links: Vec<LinkSlot>,
    free: Vec<usize>,
    again: VecDeque<usize>,
    /// The end of the backoff.
    paused_until: Option<Instant>,
    /// Requests to close connections that the guest has made.
    owed: Vec<Request>,
    scratch: Vec<u8>,
}

/// The token of a connection's events.
fn token(index: usize, generation: u32, side: Side) -> u64 {
    // Greater than the other two tokens.
    let place = (index as u64 + 1) << 1 | u64::from(side == Side::Guest);
    u64::from(generation) << 32 | (place & u64::from(u32::MAX))
}

fn parse(token: u64) -> Option<(usize, u32, Side)> {
    let place = token & u64::from(u32::MAX);
    let index = usize::try_from((place >> 1).checked_sub(1)?).ok()?;
    let side = if place & 1 == 1 { Side::Guest } else { Side::Client };
    Some((index, u32::try_from(token >> 32).ok()?, side))
}

impl Server {
    fn serve(mut self) {
        loop {
            let Ok(events) = self.poller.wait(self.timeout()) else { break };
            let mut continues = true;
            for (token, readiness) in events {
                continues = continues && self.handle(token, readiness);
            }
            for _ in 0..self.again.len() {
                let Some(index) = self.again.pop_front() else { break };
                if let Some(place) = self.links.get_mut(index) {
                    place.is_queued = false;
                }
                continues = continues && self.advance(index);
            }
            if !continues || !self.end_pause() {
                break;
            }
        }
        let links = self.links.iter().filter_map(|place| place.link.as_ref());
        links.for_each(|(link, _)| link.reset_client());
    }

    /// Returns whether the relay continues.
    fn handle(&mut self, token: u64, readiness: Readiness) -> bool {
        match token {
            STOP => return false,
            SOURCE => return self.accept(),
            _ => {}
        }
        let Some((index, generation, side)) = parse(token) else { return true };
        let place = self.links.get_mut(index).filter(|place| place.generation == generation);
        let Some((link, _)) = place.and_then(|place| place.link.as_mut()) else { return true };
        let Readiness { readable, writable, hung_up } = readiness;
        link.hear(side, readable || hung_up, writable || hung_up);
        self.advance(index)
    }

    /// Accepts pending connections, up to a limit.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            if self.dialer.upgrade().is_some_and(|dialer| dialer.is_full()) {
                self.pause();
                return true;
            }
            match self.source.next() {
                Ok(arrival) => {
                    if !self.take_in(arrival) {
                        return false;
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return true,
                    ErrorKind::BrokenPipe => return false,
                    // The client has closed its connection already.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.pause();
                        return true;
                    }
                },
            }
            if self.paused_until.is_some() {
                return true;
            }
        }
        true
    }

    /// Opens the guest's side of a connection. Returns whether the machine is there.
    fn take_in(&mut self, arrival: Arrival) -> bool {
        let Arrival { client, request, is_connecting } = arrival;
        let Some(dialer) = self.dialer.upgrade() else {
            client.as_ref().map(reset);
            return false;
        };
        // Counted before it is visible to the guest, or another forward would not see it in time.
        let slot = dialer.slot();
        match (dialer.dial(&request), client) {
            (Ok(guest), Some(client)) => {
                drop(dialer);
                let link = if is_connecting {
                    Link::connecting(client, guest)
                } else {
                    Link::new(client, guest)
                };
                self.insert(link, slot)
            }
            // Dropping the stream closes the guest's side.
            (Ok(_), None) => true,
            (Err(_), client) => {
                client.as_ref().map(reset);
                if matches!(request, Request::Accept { .. }) {
                    self.owed.push(request);
                }
                self.pause();
                !dialer.is_over()
            }
        }
    }

    fn insert(&mut self, link: Link, slot: Arc<()>) -> bool {
        let index = self.free.pop().unwrap_or_else(|| {
            self.links.push(LinkSlot { generation: 0, link: None, is_queued: false });
            self.links.len() - 1
        });
        let Some(place) = self.links.get_mut(index) else { return true };
        let generation = place.generation;
        let watched = link.descriptors().into_iter().try_for_each(|(side, fd)| {
            let token = token(index, generation, side);
            self.poller.add(&fd, token, Interest::InputAndRoom, Trigger::Edge)
        });
        place.link = Some((link, slot));
        if watched.is_err() {
            self.remove(index, true);
            self.pause();
            return true;
        }
        self.advance(index)
    }

    /// Advances a connection. Returns whether the machine is there.
    fn advance(&mut self, index: usize) -> bool {
        let Some(place) = self.links.get_mut(index) else { return true };
        let Some((link, _)) = &mut place.link else { return true };
        match link.advance(&mut self.scratch) {
            Outcome::Waits => {}
            Outcome::Yields => {
                if !std::mem::replace(&mut place.is_queued, true) {
                    self.again.push_back(index);
                }
            }
            Outcome::Closed => self.remove(index, false),
            Outcome::Broken => self.remove(index, true),
            Outcome::Unanswered => {
                self.remove(index, true);
                return self.dialer.upgrade().is_some_and(|dialer| !dialer.is_over());
            }
        }
        true
    }

    fn remove(&mut self, index: usize, is_reset: bool) {
        let Some(place) = self.links.get_mut(index) else { return };
        if let Some((link, _)) = place.link.take() {
            if is_reset {
                link.reset_client();
            }
            place.generation = place.generation.wrapping_add(1);
            self.free.push(index);
        }
    }

    /// Starts the backoff.
    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + PAUSE);
        self.poller.remove(&self.source.descriptor());
    }

    /// Accepts again once the backoff is over. Returns whether the relay continues.
    fn end_pause(&mut self) -> bool {
        if self.paused_until.is_none_or(|until| Instant::now() < until) {
            return true;
        }
        self.paused_until = None;
        while let Some(request) = self.owed.last() {
            // A stream that closes at once makes the guest close its side.
            if self.dialer.upgrade().is_none_or(|dialer| dialer.dial(request).is_err()) {
                self.pause();
                return self.dialer.upgrade().is_some_and(|dialer| !dialer.is_over());
            }
            self.owed.pop();
        }
        let source = self.source.descriptor();
        let added = self.poller.add(&source, SOURCE, Interest::Input, Trigger::Level);
        // Not every source reports earlier connections again.
        added.is_ok() && self.accept()
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        self.paused_until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

/// Makes a client's connection reset when it is dropped; a socket file's just closes.
fn reset(client: &OwnedFd) {
    let _ = os::reset_on_close(client);
}
