//! The processor time that threads use.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;
use std::time::Duration;

/// The processor time that a thread has used.
pub(crate) fn thread_cpu_time<T>(thread: &JoinHandle<T>) -> io::Result<Duration> {
    // SAFETY: the thread was not joined, so that its handle is valid.
    let port = unsafe { libc::pthread_mach_thread_np(thread.as_pthread_t()) };
    let zero = || libc::time_value_t { seconds: 0, microseconds: 0 };
    let mut info = libc::thread_basic_info {
        user_time: zero(),
        system_time: zero(),
        cpu_usage: 0,
        policy: 0,
        run_state: 0,
        flags: 0,
        suspend_count: 0,
        sleep_time: 0,
    };
    let mut count = libc::THREAD_BASIC_INFO_COUNT;
    let flavor = libc::THREAD_BASIC_INFO.cast_unsigned();
    // SAFETY: the kernel writes at most `count` words to `info`, which has as many.
    let result = unsafe { libc::thread_info(port, flavor, (&raw mut info).cast(), &raw mut count) };
    if result != libc::KERN_SUCCESS {
        return Err(io::Error::other(format!("thread_info returned {result}")));
    }
    Ok(duration(info.user_time) + duration(info.system_time))
}

fn duration(time: libc::time_value_t) -> Duration {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Duration::from_secs(seconds)
        + Duration::from_micros(u64::try_from(time.microseconds).unwrap_or(0))
}
