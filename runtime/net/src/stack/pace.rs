//! How fast bytes pass in one direction.
//!
//! A balance of bytes grows with time, up to a limit, and each frame takes from it. A frame passes whole
//! while the balance is above zero, so that it may leave a debt that time pays.

use std::time::{Duration, Instant};

use crate::packet::FRAME_HEADER;
use crate::segment::MTU;

/// The longest burst: the bytes of this time, but at least one frame.
const BURST: Duration = Duration::from_millis(50);
const NANOSECONDS: u128 = 1_000_000_000;

/// The pace of one direction.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes in a second.
    rate: u64,
    /// The most that the balance grows to.
    most: i64,
    balance: i64,
    /// When the balance was right. What is less than a byte stays in the time.
    at: Instant,
}

impl Pace {
    /// A pace that begins with a full balance. The rate is not zero.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        let burst = bytes_in(rate, BURST);
        let most = burst.max((FRAME_HEADER + usize::from(MTU)).try_into().unwrap_or(i64::MAX));
        Self { rate: rate.max(1), most, balance: most, at: now }
    }

    /// Whether a frame may pass.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        let earned = bytes_in(self.rate, now.saturating_duration_since(self.at));
        if self.balance.saturating_add(earned) >= self.most {
            (self.balance, self.at) = (self.most, now);
        } else if earned > 0 {
            self.balance += earned;
            self.at += self.time_of(earned);
        }
        self.balance > 0
    }

    /// A frame passes.
    pub(super) fn take(&mut self, bytes: usize) {
        self.balance = self.balance.saturating_sub(bytes.try_into().unwrap_or(i64::MAX));
    }

    /// When the next frame may pass.
    pub(super) fn opens_at(&self) -> Instant {
        match self.balance {
            1.. => self.at,
            debt => self.at + self.time_of(debt.saturating_neg().saturating_add(1)),
        }
    }

    fn time_of(&self, bytes: i64) -> Duration {
        let bytes = u128::try_from(bytes).unwrap_or(0);
        let nanoseconds = (bytes * NANOSECONDS).div_ceil(self.rate.into());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

fn bytes_in(rate: u64, time: Duration) -> i64 {
    i64::try_from(u128::from(rate) * time.as_nanos() / NANOSECONDS).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that pass in a second, in frames of this size.
    fn passed(rate: u64, size: usize) -> usize {
        let start = Instant::now();
        let mut pace = Pace::new(rate, start);
        // The first burst.
        while pace.is_open(start) {
            pace.take(size);
        }
        let mut total = 0;
        for micros in 0..1_000_000 {
            while pace.is_open(start + Duration::from_micros(micros)) {
                pace.take(size);
                total += size;
            }
        }
        total
    }

    #[test]
    fn rate_holds_over_a_second() {
        for (rate, size) in [(1_000_000, 100), (10_000_000, 65_534), (999_983, 1500), (70, 7)] {
            let total = passed(rate, size) as u64;
            let slack = 2 * size as u64;
            assert!(
                (rate.saturating_sub(slack)..=rate + slack).contains(&total),
                "{rate}: {total}"
            );
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pace = Pace::new(1 << 20, start);
        let later = start + Duration::from_secs(3600);
        let mut burst = 0;
        while pace.is_open(later) {
            pace.take(1000);
            burst += 1000;
        }
        assert!(burst < 70_000, "{burst}");
    }

    #[test]
    fn debt_is_paid_by_the_time_that_is_named() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        pace.take(100_000);
        assert!(!pace.is_open(start));
        let opens = pace.opens_at();
        assert!(!pace.is_open(opens - Duration::from_millis(2)));
        assert!(pace.is_open(opens));
        assert!(pace.opens_at() <= opens);
    }
}
