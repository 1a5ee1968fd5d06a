//! Waiting for descriptors: `kqueue`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::os::unix::readiness::{Interest, Readiness, Trigger, milliseconds};

/// Events fetched by one call.
const BATCH: usize = 64;
/// A wait without a timeout, in milliseconds: a year.
const FOREVER: u64 = 365 * 24 * 3600 * 1000;

/// A set of watched sockets and wakers.
///
/// Each has a filter for input. A descriptor also has one for output if it waits for room, or if it
/// is edge-triggered, because that filter reports hang-ups.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::kqueue() };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made the descriptor for us alone. Programs that this process
        // starts do not inherit it: it belongs to this process only.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a socket; its events carry `token`. Closing it removes it.
    ///
    /// # Errors
    /// The kernel has no room.
    pub fn add(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        let fd = descriptor.as_raw_fd();
        let clear = if trigger == Trigger::Edge { libc::EV_CLEAR } else { 0 };
        let filter = |filter| Filter { fd, filter, flags: libc::EV_ADD | clear, token };
        self.change(filter(libc::EVFILT_READ).change(0, 0))?;
        let output = filter(libc::EVFILT_WRITE);
        match (interest, trigger) {
            (Interest::InputAndRoom, _) => self.change(output.change(0, 0)),
            // Reports hang-ups, and room only when the other end has taken everything.
            (Interest::Input, Trigger::Edge) => {
                self.change(output.change(libc::NOTE_LOWAT, isize::MAX))
            }
            (Interest::Input, Trigger::Level) => {
                self.delete(fd, libc::EVFILT_WRITE);
                Ok(())
            }
        }
    }

    /// Changes what a socket of the set is watched for. What is ready already is reported again.
    ///
    /// # Errors
    /// The kernel has no room.
    pub fn modify(
        &self,
        descriptor: &impl AsRawFd,
        token: u64,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        self.add(descriptor, token, interest, trigger)
    }

    /// Removes a socket, if it is in the set.
    pub fn remove(&self, descriptor: &impl AsRawFd) {
        for filter in [libc::EVFILT_READ, libc::EVFILT_WRITE] {
            self.delete(descriptor.as_raw_fd(), filter);
        }
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
        let empty = Filter { fd: 0, filter: 0, flags: 0, token: 0 }.change(0, 0);
        let mut events = [empty; BATCH];
        let timeout =
            Duration::from_millis(u64::try_from(milliseconds(timeout)).unwrap_or(FOREVER));
        let count = match self.call(&[], &mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        Ok(events.into_iter().take(count).map(|event| {
            let is_output = event.filter == libc::EVFILT_WRITE;
            let readiness = Readiness {
                readable: !is_output,
                writable: is_output,
                // The end of input alone is one direction's.
                hung_up: is_output && event.flags & libc::EV_EOF != 0,
            };
            (event.udata.addr() as u64, readiness)
        }))
    }

    /// Deletes a filter, if it is there.
    fn delete(&self, fd: RawFd, filter: i16) {
        let _ = self.change(Filter { fd, filter, flags: libc::EV_DELETE, token: 0 }.change(0, 0));
    }

    fn change(&self, change: libc::kevent) -> io::Result<()> {
        self.call(&[change], &mut [], Duration::ZERO).map(drop)
    }

    /// Makes changes, or waits for events.
    fn call(
        &self,
        changes: &[libc::kevent],
        events: &mut [libc::kevent],
        timeout: Duration,
    ) -> io::Result<usize> {
        let (changed, room) = (changes.len() as libc::c_int, events.len() as libc::c_int);
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: pointers and lengths describe `changes` and `events`, and the kernel reads one
        // `timespec`.
        let count = unsafe {
            libc::kevent(
                self.0.as_raw_fd(),
                changes.as_ptr(),
                changed,
                events.as_mut_ptr(),
                room,
                &raw const timeout,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// A filter of a descriptor, and what to do with it.
struct Filter {
    fd: RawFd,
    filter: i16,
    flags: u16,
    token: u64,
}

impl Filter {
    fn change(&self, fflags: u32, data: isize) -> libc::kevent {
        libc::kevent {
            ident: self.fd.cast_unsigned() as usize,
            filter: self.filter,
            flags: self.flags,
            fflags,
            data,
            udata: ptr::without_provenance_mut(self.token as usize),
        }
    }
}
