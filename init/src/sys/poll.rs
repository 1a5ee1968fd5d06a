//! Waiting: epoll for the event loop, inotify and poll for a device node at attach.

use core::ffi::CStr;

use rustix::event::epoll::{self, CreateFlags, EventData};
pub(crate) use rustix::event::epoll::{Event, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, WatchFlags};

use super::fd::Fd;
use super::{Errno, Result, clock};

/// Something can be read.
pub(crate) const READABLE: EventFlags = EventFlags::IN;
/// Something can be written.
pub(crate) const WRITABLE: EventFlags = EventFlags::OUT;
/// The peer closed.
pub(crate) const HANG_UP: EventFlags =
    EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);
/// Each change is reported once.
pub(crate) const EDGES: EventFlags = EventFlags::ET;
/// An empty event, to fill an array with.
pub(crate) const NO_EVENT: Event =
    Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll(Fd);

impl Epoll {
    pub(crate) fn new() -> Result<Self> {
        epoll::create(CreateFlags::CLOEXEC).map(|fd| Self(fd.into()))
    }

    /// Reports `fd` under `token` when one of `events` holds.
    pub(crate) fn add(&self, fd: &Fd, events: EventFlags, token: u64) -> Result<()> {
        epoll::add(&self.0, fd, EventData::new_u64(token), events)
    }

    /// Changes what is reported.
    pub(crate) fn modify(&self, fd: &Fd, events: EventFlags, token: u64) -> Result<()> {
        epoll::modify(&self.0, fd, EventData::new_u64(token), events)
    }

    /// Reports `fd` no more.
    pub(crate) fn remove(&self, fd: &Fd) -> Result<()> {
        epoll::delete(&self.0, fd)
    }

    /// Waits for at most `timeout` milliseconds, for ever when it is negative. Returns how many
    /// events were filled in.
    pub(crate) fn wait(&self, events: &mut [Event], timeout: i32) -> Result<usize> {
        let timeout = u64::try_from(timeout).ok().map(|timeout| clock::time(timeout * 1_000_000));
        match epoll::wait(&self.0, events, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(0),
            other => other,
        }
    }
}

/// Watches a directory for new entries. Reading the result does not block.
pub(crate) fn watch_directory(path: &CStr) -> Result<Fd> {
    let how = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(how)?;
    inotify::add_watch(&watch, path, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    Ok(watch.into())
}

/// Waits until `fd` is readable, at most `timeout` nanoseconds. Returns `false` after that time.
pub(crate) fn wait_readable(fd: &Fd, timeout: u64) -> Result<bool> {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&clock::time(timeout))).map(|count| count > 0)
}
