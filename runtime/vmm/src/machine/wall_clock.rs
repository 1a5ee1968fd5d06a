//! The host's wall clock, and steps of it while a machine runs.
//!
//! A guest takes the time of day once and then counts by itself. When the host sleeps, or its clock is
//! set, the two differ. The watch compares the host's wall clock with its monotonic clock, which
//! neither of these changes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The smallest step that is passed on to a guest.
const STEP: Duration = Duration::from_millis(250);

/// The host's wall clock, in nanoseconds since 1970.
#[must_use]
pub fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Two clocks of the host, read at the same moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Nanoseconds since 1970.
    pub(super) realtime_ns: u64,
    pub(super) monotonic: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { realtime_ns: realtime_ns(), monotonic: Instant::now() }
    }
}

/// Notices steps of the wall clock. `None` until the guest has the time.
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Option<Moment>);

impl ClockWatch {
    /// Records that the guest gets this time.
    pub(super) fn tell(&mut self, now: Moment) {
        self.0 = Some(now);
    }

    /// Whether the wall clock has moved by more than time has passed, or by less, since the guest got
    /// the time.
    pub(super) fn has_stepped(&self, now: Moment) -> bool {
        let Some(told) = self.0 else { return false };
        let passed = now.monotonic.saturating_duration_since(told.monotonic);
        let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let expected = told.realtime_ns.saturating_add(passed);
        u128::from(expected.abs_diff(now.realtime_ns)) > STEP.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;

    /// `seconds` later, with a wall clock that was stepped.
    fn later(begin: Moment, seconds: u64, realtime_ns: u64) -> Moment {
        Moment { realtime_ns, monotonic: begin.monotonic + Duration::from_secs(seconds) }
    }

    #[test]
    fn step_in_either_direction_is_noticed_once() {
        let begin = Moment { realtime_ns: 20_000 * DAY, monotonic: Instant::now() };
        let mut watch = ClockWatch::default();
        assert!(!watch.has_stepped(begin), "a guest without the time keeps its clock");
        watch.tell(begin);
        let on_time = later(begin, 100, begin.realtime_ns + 100 * SECOND);
        assert!(!watch.has_stepped(on_time));
        let tomorrow = later(begin, 100, begin.realtime_ns + DAY);
        assert!(watch.has_stepped(tomorrow));
        watch.tell(tomorrow);
        assert!(!watch.has_stepped(later(begin, 101, tomorrow.realtime_ns + SECOND)));
        assert!(watch.has_stepped(later(begin, 101, begin.realtime_ns + 101 * SECOND)));
    }

    #[test]
    fn sleep_of_the_host_is_a_step_and_a_slow_adjustment_is_not() {
        let begin = Moment { realtime_ns: 20_000 * DAY, monotonic: Instant::now() };
        let mut watch = ClockWatch::default();
        watch.tell(begin);
        // The monotonic clock stands still while the host sleeps.
        assert!(watch.has_stepped(later(begin, 1, begin.realtime_ns + 3600 * SECOND)));
        let adjusted = begin.realtime_ns + 1000 * SECOND - SECOND / 5;
        assert!(!watch.has_stepped(later(begin, 1000, adjusted)));
    }
}
