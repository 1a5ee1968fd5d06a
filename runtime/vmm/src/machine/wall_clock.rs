//! The host's wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// The host's wall clock, in nanoseconds since 1970.
#[must_use]
pub fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
