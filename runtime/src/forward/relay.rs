//! The thread of one forward: `sm-forward`.
//!
//! Owns the listener, every connection that came from it, and the epoll descriptor. It waits for
//! all of them at once, and ends when it is told to, or when the machine is gone: then it closes
//! them all. Invariants: it never blocks on one connection; it never spins when the host lacks
//! descriptors or memory, or the machine has as many connections as it may, but tries again after
//! [`PAUSE`].

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use supermachine_formats::wire::Request;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::link::{Link, Outcome, SCRATCH, Side};
use super::reach::Reach;
use super::sys;

const THREAD_NAME: &str = "sm-forward";
/// How long nothing is accepted where nothing more can be had.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted before others have their turn.
const ACCEPTS: u32 = 64;
/// Events fetched at once.
const BATCH: usize = 128;

const STOP: u64 = 0;
const SOURCE: u64 = 1;

/// A connection's client, and what to ask the guest for.
pub(super) struct Arrival {
    /// None: there is none, and the guest is to close its side.
    pub(super) client: Option<OwnedFd>,
    pub(super) request: Request,
    /// Whether the client is only about to be connected.
    pub(super) is_connecting: bool,
}

/// Where connections come from.
pub(super) trait Source: Debug + Send {
    /// What to wait at.
    fn descriptor(&self) -> RawFd;

    /// The next connection: `WouldBlock` if there is none now, `BrokenPipe` if none will come.
    fn next(&mut self) -> io::Result<Arrival>;
}

/// The handle on a relay; dropping it ends the thread, and closes all that it has.
#[derive(Debug)]
pub(super) struct Relay {
    end: Arc<EventFd>,
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts to serve what comes from `source`.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub(super) fn start(source: Box<dyn Source>, reach: &Arc<Reach>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let end = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let readable = |token| EpollEvent::new(EventSet::IN, token);
        epoll.ctl(ControlOperation::Add, end.as_raw_fd(), readable(STOP))?;
        epoll.ctl(ControlOperation::Add, source.descriptor(), readable(SOURCE))?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let server = Server {
            epoll,
            source,
            reach: Arc::downgrade(reach),
            links: Vec::new(),
            free: Vec::new(),
            again: VecDeque::new(),
            paused_until: None,
            owed: Vec::new(),
            scratch: vec![0; SCRATCH],
        };
        let flag = Arc::clone(&has_ended);
        let serve = move || {
            server.serve();
            // Only a flag: nothing else is read because of it.
            flag.store(true, Ordering::Relaxed);
        };
        let thread = Builder::new().name(THREAD_NAME.into()).spawn(serve)?;
        reach.wake_at_end(&end);
        Ok(Self { end, has_ended, thread: Some(thread) })
    }

    /// Whether nothing is served any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Writing fails only if the counter is full, and then the thread is told already. A
        // thread that panicked has nothing left to wait for.
        let _ = self.end.write(1);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A place for a connection. The generation tells events of its former ones apart.
#[derive(Debug)]
struct Place {
    generation: u32,
    /// With its slot among the machine's connections.
    link: Option<(Link, Arc<()>)>,
    /// Whether it stands in the list of those that go on without an event.
    is_queued: bool,
}

#[derive(Debug)]
struct Server {
    epoll: Epoll,
    source: Box<dyn Source>,
    reach: Weak<Reach>,
    links: Vec<Place>,
    free: Vec<usize>,
    again: VecDeque<usize>,
    /// Until when nothing is accepted.
    paused_until: Option<Instant>,
    /// Connections that the guest made and that it must be told to close.
    owed: Vec<Request>,
    scratch: Vec<u8>,
}

/// What an event of a connection is about.
fn token(index: usize, generation: u32, side: Side) -> u64 {
    // Above the other two tokens.
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
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            let count = match self.epoll.wait(self.timeout(), &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(_) => break,
            };
            let mut goes_on = true;
            for event in events.iter().take(count) {
                goes_on = goes_on && self.handle(event);
            }
            for _ in 0..self.again.len() {
                let Some(index) = self.again.pop_front() else { break };
                if let Some(place) = self.links.get_mut(index) {
                    place.is_queued = false;
                }
                goes_on = goes_on && self.advance(index);
            }
            if !goes_on || !self.end_pause() {
                break;
            }
        }
        let links = self.links.iter().filter_map(|place| place.link.as_ref());
        links.for_each(|(link, _)| link.reset_client());
    }

    /// False: the relay is to end.
    fn handle(&mut self, event: &EpollEvent) -> bool {
        match event.data() {
            STOP => return false,
            SOURCE => return self.accept(),
            _ => {}
        }
        let Some((index, generation, side)) = parse(event.data()) else { return true };
        let place = self.links.get_mut(index).filter(|place| place.generation == generation);
        let Some((link, _)) = place.and_then(|place| place.link.as_mut()) else { return true };
        let events = event.event_set();
        let broken = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        let readable = events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        let writable = events.contains(EventSet::OUT);
        link.hear(side, readable || broken, writable || broken);
        self.advance(index)
    }

    /// Takes what has come, for a while.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            if self.reach.upgrade().is_some_and(|reach| reach.is_full()) {
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
                    // One connection less, by its client's doing.
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

    /// Opens the guest's side of a connection. False: there is no machine any more.
    fn take_in(&mut self, arrival: Arrival) -> bool {
        let Arrival { client, request, is_connecting } = arrival;
        let Some(reach) = self.reach.upgrade() else {
            client.as_ref().map(reset);
            return false;
        };
        match (reach.dial(&request), client) {
            (Ok(guest), Some(client)) => {
                let slot = reach.slot();
                drop(reach);
                let link = if is_connecting {
                    Link::connecting(client, guest)
                } else {
                    Link::new(client, guest)
                };
                self.insert(link, slot)
            }
            // The guest's side ends with the stream.
            (Ok(_), None) => true,
            (Err(_), client) => {
                client.as_ref().map(reset);
                if matches!(request, Request::Accept { .. }) {
                    self.owed.push(request);
                }
                self.pause();
                !reach.is_over()
            }
        }
    }

    fn insert(&mut self, link: Link, slot: Arc<()>) -> bool {
        let index = self.free.pop().unwrap_or_else(|| {
            self.links.push(Place { generation: 0, link: None, is_queued: false });
            self.links.len() - 1
        });
        let Some(place) = self.links.get_mut(index) else { return true };
        let events =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let generation = place.generation;
        let watched = link.descriptors().into_iter().try_for_each(|(side, fd)| {
            let event = EpollEvent::new(events, token(index, generation, side));
            self.epoll.ctl(ControlOperation::Add, fd, event)
        });
        place.link = Some((link, slot));
        if watched.is_err() {
            self.remove(index, true);
            self.pause();
            return true;
        }
        self.advance(index)
    }

    /// Goes on with a connection. False: there is no machine any more.
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
            Outcome::Ended => self.remove(index, false),
            Outcome::Broke => self.remove(index, true),
            Outcome::Unanswered => {
                self.remove(index, true);
                return self.reach.upgrade().is_some_and(|reach| !reach.is_over());
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

    /// Leaves what comes next waiting for a while.
    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + PAUSE);
        let (fd, event) = (self.source.descriptor(), EpollEvent::default());
        // It fails only if it is not watched, which is what is wanted.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, event);
    }

    /// Goes on to accept once the pause is over. False: that is not possible.
    fn end_pause(&mut self) -> bool {
        if self.paused_until.is_none_or(|until| Instant::now() < until) {
            return true;
        }
        self.paused_until = None;
        while let Some(request) = self.owed.last() {
            // A stream that ends right away tells the guest.
            if self.reach.upgrade().is_none_or(|reach| reach.dial(request).is_err()) {
                self.pause();
                return self.reach.upgrade().is_some_and(|reach| !reach.is_over());
            }
            self.owed.pop();
        }
        let event = EpollEvent::new(EventSet::IN, SOURCE);
        let added = self.epoll.ctl(ControlOperation::Add, self.source.descriptor(), event);
        // What came in before is not told again by every source.
        added.is_ok() && self.accept()
    }

    fn timeout(&self) -> i32 {
        if !self.again.is_empty() {
            return 0;
        }
        self.paused_until.map_or(-1, |until| {
            let left = until.saturating_duration_since(Instant::now());
            i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
        })
    }
}

/// Has a client find its connection reset once it is dropped. One at a socket file just ends.
fn reset(client: &OwnedFd) {
    let _ = sys::reset_on_close(client);
}
