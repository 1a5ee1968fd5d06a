//! What descriptors are watched for, and what happens to them.

use std::time::Duration;

/// What happened to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// It has input, or its input has ended.
    pub readable: bool,
    /// It may have room for more output.
    pub writable: bool,
    /// The other end is closed, or the connection has failed.
    pub hung_up: bool,
}

/// What to watch a descriptor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Input.
    Input,
    /// Input, and room for output.
    InputAndRoom,
}

/// When to report an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Once, when a descriptor becomes ready. Hang-ups are always watched.
    Edge,
    /// For as long as it is ready.
    Level,
}

/// A timeout for the kernel, rounded up: waiting for too short a time would repeat at once.
/// `None` is no timeout.
pub(in crate::os) fn milliseconds(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |left| {
        let whole = left.as_nanos().div_ceil(1_000_000);
        i32::try_from(whole).unwrap_or(i32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_is_rounded_up_and_bounded() {
        let of = |nanos| milliseconds(Some(Duration::from_nanos(nanos)));
        assert_eq!([of(0), of(1), of(1_000_000), of(1_000_001)], [0, 1, 1, 2]);
        assert_eq!(milliseconds(Some(Duration::MAX)), i32::MAX);
        assert_eq!(milliseconds(None), -1);
    }
}
