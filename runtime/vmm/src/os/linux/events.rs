//! Waiting for descriptors: `epoll`, `eventfd` and `poll`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Events fetched by one call.
const BATCH: usize = 32;

/// Wakes a thread that waits, now or when it next does.
#[derive(Debug)]
pub(crate) struct Waker(EventFd);

impl Waker {
    /// A waker that has not fired.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?))
    }

    /// Another handle of the same waker.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Wakes the thread.
    pub(crate) fn wake(&self) {
        // A write fails only when the counter is full, and then the thread is awake already.
        let _ = self.0.write(1);
    }

    /// Whether it has fired since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// It may have room for more output.
    pub(crate) writable: bool,
    /// The other end is closed.
    pub(crate) hung_up: bool,
}

/// What to watch a descriptor for. Input and hang-ups are always watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Input,
    InputAndRoom,
}

/// A set of watched descriptors. Events are edge-triggered.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new()?))
    }

    /// Adds a descriptor; its events carry `token`. Closing it removes it.
    ///
    /// # Errors
    /// The descriptor is in the set already, or the kernel has no room.
    pub(crate) fn add(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(ControlOperation::Add, descriptor, token, interest)
    }

    /// Changes what a descriptor of the set is watched for.
    ///
    /// # Errors
    /// The descriptor is not in the set.
    pub(crate) fn modify(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(ControlOperation::Modify, descriptor, token, interest)
    }

    /// Waits for events, and returns each with its token.
    ///
    /// # Errors
    /// The set cannot be waited for.
    pub(crate) fn wait(&self) -> io::Result<impl Iterator<Item = (u64, Readiness)>> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = loop {
            match self.0.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        Ok(events.into_iter().take(count).map(|event| {
            let set = event.event_set();
            let writable = set.contains(EventSet::OUT);
            (event.data(), Readiness { writable, hung_up: set.contains(EventSet::HANG_UP) })
        }))
    }

    fn control(
        &self,
        operation: ControlOperation,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let input = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let events = match interest {
            Interest::Input => input,
            Interest::InputAndRoom => input | EventSet::OUT,
        };
        self.0.ctl(operation, descriptor.as_raw_fd(), EpollEvent::new(events, token))
    }
}

/// Waits until `input` can be read or `waker` fires. Returns whether the waker did not fire; an
/// interrupted wait counts as input.
///
/// # Errors
/// The descriptors cannot be waited for.
pub(crate) fn wait_for_input(input: &impl AsRawFd, waker: &Waker) -> io::Result<bool> {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polled = [entry(input.as_raw_fd()), entry(waker.as_raw_fd())];
    // SAFETY: pointer and length describe `polled`.
    let answer = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(true) } else { Err(error) };
    }
    Ok(polled[1].revents == 0)
}
