//! Retries: which failures are transient, and how long to wait.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::oci::error::Error;
use crate::oci::options::Timeouts;

/// The number of attempts.
const ATTEMPTS: u32 = 4;

/// The longest pause of the backoff itself.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt would fail too.
    Final(Error),
    /// Another attempt may succeed, after the registry's `Retry-After` if it sent one.
    Transient { error: Error, retry_after: Option<Duration> },
}

/// The pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    attempt: u32,
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self { attempt: 1, pause: timeouts.pause, longest: timeouts.retry_after }
    }

    /// The number of the current attempt, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the current attempt is the last.
    pub(super) fn is_over(&self) -> bool {
        self.attempt == ATTEMPTS
    }

    /// Whether the registry requests a longer pause than allowed.
    pub(super) fn is_too_long(&self, retry_after: Option<Duration>) -> bool {
        retry_after.is_some_and(|asked| asked > self.longest)
    }

    /// Counts a failed attempt. Returns the pause before the next one; `None` after the last attempt, or if
    /// the registry requests a longer pause than allowed.
    pub(super) fn next(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        if self.is_over() || self.is_too_long(retry_after) {
            return None;
        }
        self.attempt += 1;
        let pause = self.pause.max(retry_after.unwrap_or_default());
        self.pause = self.pause.saturating_mul(2).min(MAX_PAUSE);
        Some(pause)
    }
}

/// Whether the same request may succeed later.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504)
}

/// The pause that a response requests, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_respect_retry_after() {
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { pause: second, ..Timeouts::default() };
        let mut backoff = Backoff::new(timeouts);
        assert_eq!(backoff.next(None), Some(second));
        assert_eq!(backoff.next(Some(5 * second)), Some(5 * second));
        assert_eq!(backoff.next(Some(second)), Some(4 * second));
        assert_eq!(backoff.next(None), None);
        assert_eq!(Backoff::new(timeouts).next(Some(61 * second)), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        let later = SystemTime::now() + Duration::from_secs(3600);
        let pause = read(&httpdate::fmt_http_date(later)).unwrap();
        assert!((3590..=3600).contains(&pause.as_secs()), "{pause:?}");
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
