//! Threads: how many to start, and the processor time that they use.

use std::io;
use std::num::NonZero;
use std::os::unix::thread::JoinHandleExt;
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The number of threads to start for `pieces` of work: one per processor, with at least `each`
/// pieces for every thread but the last.
#[must_use]
pub fn threads_for(pieces: usize, each: usize) -> usize {
    processors().min(pieces.div_ceil(each)).max(1)
}

/// The processors that this process may use, counted once, as that reads files.
pub(super) fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get))
}

/// The processor time that a thread has used.
pub(crate) fn thread_cpu_time<T>(thread: &JoinHandle<T>) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: the thread was not joined, so that its handle is valid.
    let errno = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one time.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}
