//! Points in time on the command line and in output: UTC, in nanoseconds since 1970.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: i128 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) i64);

impl Moment {
    /// The present.
    pub(crate) fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Whole seconds since 1970.
    pub(crate) fn seconds(self) -> i64 {
        self.0.div_euclid(SECOND as i64)
    }

    /// How long it is from now until this.
    pub(crate) fn time_left(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(Self::now().0)).unwrap_or(0))
    }

    /// Parses what Docker's `--since` takes: seconds since 1970, a date with or without a time, or how long
    /// ago, as `10m`. A date without an offset is UTC.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = unix(text)
            .or_else(|| Some(i128::from(Self::now().0) - ago(text)?))
            .or_else(|| date(text))
            .and_then(|nanoseconds| i64::try_from(nanoseconds).ok());
        found.map(Self).ok_or_else(|| {
            "not a time: use seconds since 1970, a date as 2030-01-31T12:00:00Z, or how long ago, as 10m"
                .to_owned()
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.seconds().div_euclid(DAY), self.seconds().rem_euclid(DAY));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        let nanoseconds = self.0.rem_euclid(SECOND as i64);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        write!(f, ".{nanoseconds:09}Z")
    }
}

/// Seconds since 1970, with a fraction.
fn unix(text: &str) -> Option<i128> {
    decimal(text)
}

/// A decimal number without a sign, times a thousand million.
fn decimal(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(whole.parse::<i128>().ok()? * SECOND + fraction.parse::<i128>().ok()?)
}

/// A duration as in Go: `1h30m`, `1.5s`, `300ms`.
fn ago(text: &str) -> Option<i128> {
    let mut rest = text;
    let mut total = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, behind) = rest.split_at_checked(digits)?;
        let letters = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(letters)?;
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        total = total.checked_add(decimal(number)?.checked_mul(unit)? / SECOND)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

/// `2030-01-31`, `2030-01-31T12:00`, `…:00`, `….5`, with `Z`, an offset as `+02:00`, or none.
fn date(text: &str) -> Option<i128> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00Z"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let days = days(year, month, day)?;
    let (time, offset) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) => {
            let (time, offset) = time.split_at_checked(at)?;
            (time, offset_seconds(offset)?)
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let time = if time.len() == 5 { format!("{time}:00") } else { time.to_owned() };
    let [hour, minute, second] = numbers(&time, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
    Some(i128::from(seconds) * SECOND + decimal(&format!("0.{fraction}"))?)
}

fn offset_seconds(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let [hours, minutes] = numbers(text.get(1..)?, ':', [2, 2])?;
    let seconds = hours * 3600 + minutes * 60;
    (hours < 24 && minutes < 60).then_some(if text.starts_with('-') { -seconds } else { seconds })
}

/// Numbers of fixed widths.
fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// The days from 1970-01-01 to a date of the Gregorian calendar. `None` if there is no such date.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) {
        return None;
    }
    // The year starts in March, so that the leap day is its last.
    let (march_year, march_month) =
        if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let leap_days =
        march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    let days = march_year * 365 + leap_days + day_of_year - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
}

/// The date that is this many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month < 3), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> i64 {
        Moment::parse(text).unwrap().0
    }

    #[test]
    fn dates_are_utc_and_round_trip() {
        for text in ["1970-01-01T00:00:00.000000000Z", "2024-02-29T23:59:59.123456789Z"] {
            assert_eq!(Moment::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("2001-09-09T01:46:40Z"), 1_000_000_000_000_000_000);
        assert_eq!(parse("2001-09-09T03:46:40+02:00"), parse("1000000000"));
        assert_eq!(parse("2001-09-08T20:16:40.5-05:30"), parse("1000000000.5"));
        assert_eq!(parse("2001-09-09"), parse("2001-09-09T00:00"));
        assert_eq!(parse("2001-09-09T00:00:00"), parse("2001-09-09T00:00Z"));
        for days in (-1_000_000..1_000_000).step_by(977) {
            let (year, month, day) = civil(days);
            assert_eq!(super::days(year, month, day), Some(days));
        }
    }

    #[test]
    fn durations_are_that_long_ago() {
        for (text, seconds) in [("10m", 600), ("1h30m", 5400), ("1.5s", 1), ("1500ms", 1)] {
            let then = parse(text);
            let ago = (Moment::now().0 - then) / 1_000_000_000;
            assert!((seconds..seconds + 5).contains(&ago), "{text}: {ago}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "x",
            "-1",
            "1.",
            ".5",
            "10",
            "10mm",
            "m",
            "1h30",
            "2001-13-01",
            "2001-02-29",
            "2001-2-3",
            "2001-02-03T24:00",
            "2001-02-03T10",
            "2001-02-03T10:00:00+2",
            "2001-02-03T10:00:00.Z",
            "99999999999999999999",
            "999999999999h",
        ] {
            if text == "10" {
                // Ten seconds after the start of 1970.
                assert_eq!(parse(text), 10_000_000_000);
            } else {
                assert!(Moment::parse(text).is_err(), "{text:?}");
            }
        }
    }
}
