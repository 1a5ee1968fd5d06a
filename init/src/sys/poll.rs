//! Waiting: epoll for the event loop, inotify and poll for a device node at attach.

use core::ffi::CStr;

use linux_raw_sys::general as nr;
pub(crate) use linux_raw_sys::general::epoll_event as Event;

use super::fd::Fd;
use super::{Errno, Result, call, flags, int};

/// Something can be read.
pub(crate) const READABLE: u32 = nr::EPOLLIN;
/// Something can be written.
pub(crate) const WRITABLE: u32 = nr::EPOLLOUT;
/// The peer closed.
pub(crate) const HANG_UP: u32 = nr::EPOLLRDHUP | nr::EPOLLHUP | nr::EPOLLERR;
/// Each change is reported once.
pub(crate) const EDGES: u32 = nr::EPOLLET;
/// An empty event, to fill an array with.
pub(crate) const NO_EVENT: Event = Event { events: 0, data: 0 };

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll(Fd);

impl Epoll {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: no memory is involved.
        unsafe { call(nr::__NR_epoll_create1, [flags(nr::EPOLL_CLOEXEC), 0, 0, 0, 0, 0]) }
            .map(|number| Self(Fd::adopt(number)))
    }

    /// Reports `fd` under `token` when one of `events` holds.
    pub(crate) fn add(&self, fd: &Fd, events: u32, token: u64) -> Result<()> {
        self.control(nr::EPOLL_CTL_ADD, fd, events, token)
    }

    /// Changes what is reported.
    pub(crate) fn modify(&self, fd: &Fd, events: u32, token: u64) -> Result<()> {
        self.control(nr::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Reports `fd` no more.
    pub(crate) fn remove(&self, fd: &Fd) -> Result<()> {
        self.control(nr::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits for at most `timeout` milliseconds, for ever when it is negative. Returns how many
    /// events were filled in.
    pub(crate) fn wait(&self, events: &mut [Event], timeout: i32) -> Result<usize> {
        let address = events.as_mut_ptr() as usize;
        let arguments = [self.0.register(), address, events.len(), int(timeout), 0, 0];
        // SAFETY: the kernel writes at most the slice's length of events; no signal mask.
        match unsafe { call(nr::__NR_epoll_pwait, arguments) } {
            Err(Errno::EINTR) => Ok(0),
            other => other,
        }
    }

    fn control(&self, operation: u32, fd: &Fd, events: u32, token: u64) -> Result<()> {
        let event = Event { events, data: token };
        let address = core::ptr::from_ref(&event) as usize;
        let arguments = [self.0.register(), flags(operation), fd.register(), address, 0, 0];
        // SAFETY: the kernel reads one event.
        unsafe { call(nr::__NR_epoll_ctl, arguments) }.map(drop)
    }
}

/// Watches a directory for new entries. Reading the result does not block.
pub(crate) fn watch_directory(path: &CStr) -> Result<Fd> {
    // SAFETY: no memory is involved.
    let watch = unsafe {
        call(nr::__NR_inotify_init1, [flags(nr::O_CLOEXEC | nr::O_NONBLOCK), 0, 0, 0, 0, 0])
    }
    .map(Fd::adopt)?;
    let what = flags(nr::IN_CREATE | nr::IN_MOVED_TO);
    let arguments = [watch.register(), path.as_ptr() as usize, what, 0, 0, 0];
    // SAFETY: the path is a terminated string that outlives the call.
    unsafe { call(nr::__NR_inotify_add_watch, arguments) }?;
    Ok(watch)
}

/// Waits until `fd` is readable, at most `timeout` nanoseconds. Returns `false` after that time.
pub(crate) fn wait_readable(fd: &Fd, timeout: u64) -> Result<bool> {
    let mut poll = nr::pollfd { fd: fd.number(), events: 1, revents: 0 };
    let mut time = [timeout / 1_000_000_000, timeout % 1_000_000_000];
    let arguments =
        [core::ptr::from_mut(&mut poll) as usize, 1, time.as_mut_ptr() as usize, 0, 0, 0];
    // SAFETY: one poll structure, one time (two 64-bit words, which the kernel may update) and
    // no signal mask.
    unsafe { call(nr::__NR_ppoll, arguments) }.map(|count| count > 0)
}
