//! Waiting for descriptors: `epoll` and `eventfd`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::os::unix::readiness::{Interest, Readiness, Trigger, milliseconds};

/// Events fetched by one call.
const BATCH: usize = 64;

/// Wakes a thread that waits, now or when it next does.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// A waker that has not fired.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?))
    }

    /// Another handle of the same waker.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // A write fails only when the counter is full, and then the thread is awake already.
        let _ = self.0.write(1);
    }

    /// Whether it has fired since the last call.
    pub fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A set of watched sockets and wakers.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new()?))
    }

    /// Adds a descriptor; its events carry `token`. Closing it removes it.
    ///
    /// # Errors
    /// The descriptor is in the set already, or the kernel has no room.
    pub fn add(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        self.control(ControlOperation::Add, descriptor, (token, interest, trigger))
    }

    /// Changes what a descriptor of the set is watched for. What is ready already is reported again.
    ///
    /// # Errors
    /// The descriptor is not in the set.
    pub fn modify(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        self.control(ControlOperation::Modify, descriptor, (token, interest, trigger))
    }

    /// Removes a descriptor, if it is in the set.
    pub fn remove(&self, descriptor: &impl AsRawFd) {
        let fd = descriptor.as_raw_fd();
        let _ = self.0.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Waits for events, and returns each with its token. There are none after the timeout, or when
    /// a signal interrupts.
    ///
    /// # Errors
    /// The set cannot be waited for.
    pub fn wait(
        &self,
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (u64, Readiness)> + use<>> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = match self.0.wait(milliseconds(timeout), &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        Ok(events.into_iter().take(count).map(|event| {
            let set = event.event_set();
            let readiness = Readiness {
                readable: set.intersects(EventSet::IN | EventSet::READ_HANG_UP),
                writable: set.contains(EventSet::OUT),
                hung_up: set.intersects(EventSet::HANG_UP | EventSet::ERROR),
            };
            (event.data(), readiness)
        }))
    }

    fn control(
        &self,
        operation: ControlOperation,
        descriptor: &impl AsRawFd,
        (token, interest, trigger): (u64, Interest, Trigger),
    ) -> io::Result<()> {
        let events = match interest {
            Interest::Input => EventSet::IN,
            Interest::InputAndRoom => EventSet::IN | EventSet::OUT,
        };
        // Level-triggered, the end of input would be an event for ever.
        let events = match trigger {
            Trigger::Edge => events | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED,
            Trigger::Level => events,
        };
        self.0.ctl(operation, descriptor.as_raw_fd(), EpollEvent::new(events, token))
    }
}
