//! Wake-ups through a pair of sockets, for systems without `eventfd`.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Wakes a thread that waits, now or when it next does.
#[derive(Debug)]
pub struct Waker {
    /// Has input once the waker has fired.
    fired: UnixStream,
    fire: UnixStream,
}

impl Waker {
    /// A waker that has not fired.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (fired, fire) = UnixStream::pair()?;
        fired.set_nonblocking(true)?;
        fire.set_nonblocking(true)?;
        Ok(Self { fired, fire })
    }

    /// Another handle of the same waker.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fired: self.fired.try_clone()?, fire: self.fire.try_clone()? })
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // A write fails only when the socket is full, and then the thread is awake already.
        let _ = (&self.fire).write(&[1]);
    }

    /// Whether it has fired since the last call.
    pub fn take(&self) -> bool {
        let mut has_fired = false;
        loop {
            match (&self.fired).read(&mut [0; 64]) {
                Ok(count) if count > 0 => has_fired = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return has_fired,
            }
        }
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.fired.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn waker_fires_once_for_any_number_of_wakes() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take());
        // More than a socket holds.
        (0..1 << 20).for_each(|_| waker.wake());
        assert!(waker.take());
        assert!(!waker.take());
    }

    #[test]
    fn clone_of_a_waker_wakes_the_thread_that_waits() {
        let waker = Waker::new().unwrap();
        let other = waker.try_clone().unwrap();
        let thread = thread::spawn(move || {
            other.wake();
        });
        waker.fired.set_nonblocking(false).unwrap();
        assert_eq!((&waker.fired).read(&mut [0; 8]).unwrap(), 1);
        thread.join().unwrap();
    }
}
