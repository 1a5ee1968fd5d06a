//! Waiting for one descriptor or a waker.

use std::io;
use std::os::fd::AsRawFd;

/// Waits until `input` can be read or `waker` fires. Returns whether the waker did not fire; an
/// interrupted wait counts as input.
///
/// # Errors
/// The descriptors cannot be waited for.
pub(crate) fn wait_for_input(input: &impl AsRawFd, waker: &impl AsRawFd) -> io::Result<bool> {
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
