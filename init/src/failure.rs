//! Turns an error number into the [`Failure`] that is reported to the host.

use alloc::string::String;

use supermachine_formats::wire::{Failure, MAX_NAME};

use crate::sys::Errno;

/// Says what failed, on what.
// Called from everywhere: a copy in each caller would make the agent larger.
#[inline(never)]
pub(crate) fn failure(operation: &str, subject: impl AsRef<[u8]>, errno: Errno) -> Failure {
    numbered(operation, subject.as_ref(), errno.raw_os_error())
}

/// Says what failed, on what, when it was no call of the kernel.
pub(crate) fn failure_of_no_call(operation: &str, subject: impl AsRef<[u8]>) -> Failure {
    numbered(operation, subject.as_ref(), 0)
}

#[inline(never)]
fn numbered(operation: &str, subject: &[u8], errno: i32) -> Failure {
    // A replacement character is three bytes long, and the host takes no more than MAX_NAME.
    let shown = subject.get(..MAX_NAME / 3).unwrap_or(subject);
    let subject = String::from_utf8_lossy(shown).into_owned();
    let errno = u16::try_from(errno).unwrap_or(u16::MAX);
    Failure { operation: operation.into(), subject, errno }
}

/// Adds what was being done to a failed call.
pub(crate) trait OrFailure<T> {
    /// The value, or the [`Failure`] of `operation` on `subject`.
    fn or_failure(self, operation: &str, subject: impl AsRef<[u8]>) -> Result<T, Failure>;
}

impl<T> OrFailure<T> for Result<T, Errno> {
    fn or_failure(self, operation: &str, subject: impl AsRef<[u8]>) -> Result<T, Failure> {
        self.map_err(|errno| failure(operation, subject, errno))
    }
}
