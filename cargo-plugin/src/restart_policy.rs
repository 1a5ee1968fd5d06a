//! When a machine whose entrypoint has exited starts again, by Docker's rules.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The wait before the first restart.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// An entrypoint that ran for this long was healthy: the wait starts anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// When to start again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After a failure, at most this often.
    OnFailure { most: Option<u32> },
    /// After every exit.
    Always,
    /// The same, as no daemon starts machines after a boot of the host.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a machine starts again after its entrypoint exited with `status`, and `restarts` restarts.
    pub(crate) fn applies(self, status: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { most } => status != 0 && most.is_none_or(|most| restarts < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, most) = match text.split_once(':') {
            None => (text, None),
            Some((name, most)) => (name, Some(most)),
        };
        match (name, most) {
            ("no", None) => Ok(Self::No),
            ("always", None) => Ok(Self::Always),
            ("unless-stopped", None) => Ok(Self::UnlessStopped),
            ("on-failure", None) => Ok(Self::OnFailure { most: None }),
            ("on-failure", Some(most)) => match most.parse::<u32>() {
                // As in Docker.
                Ok(0) => Ok(Self::OnFailure { most: None }),
                Ok(most) => Ok(Self::OnFailure { most: Some(most) }),
                Err(_) => Err(format!("{most:?} is not a number of restarts")),
            },
            ("no" | "always" | "unless-stopped", Some(_)) => {
                Err(format!("only on-failure has a number of restarts, not {name}"))
            }
            _ => Err("not one of no, on-failure[:N], always, unless-stopped".to_owned()),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { most: None } => f.write_str("on-failure"),
            Self::OnFailure { most: Some(most) } => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

/// The wait before each restart: it doubles until an entrypoint is healthy.
#[derive(Debug, Default)]
pub(crate) struct BackOff(Option<Duration>);

impl BackOff {
    /// The next wait, after an entrypoint that ran for `ran`.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let wait = match self.0 {
            Some(last) if ran < HEALTHY => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.0 = Some(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RestartPolicy {
        text.parse().unwrap()
    }

    #[test]
    fn policies_are_those_of_docker() {
        for text in ["no", "always", "unless-stopped", "on-failure", "on-failure:3"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("on-failure:0"), parse("on-failure"));
        for (text, reason) in [
            ("", "not one of"),
            ("never", "not one of"),
            ("Always", "not one of"),
            ("on-failure:", "\"\" is not a number"),
            ("on-failure:-1", "\"-1\" is not a number"),
            ("on-failure:x", "\"x\" is not a number"),
            ("always:3", "only on-failure"),
            ("no:1", "only on-failure"),
        ] {
            let error = text.parse::<RestartPolicy>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn failures_and_exits_are_told_apart() {
        assert!(!parse("no").applies(1, 0));
        assert!(parse("always").applies(0, 1000) && parse("unless-stopped").applies(137, 0));
        let policy = parse("on-failure:2");
        assert_eq!(
            [0, 1, 2, 3].map(|restarts| policy.applies(1, restarts)),
            [true, true, false, false]
        );
        assert!(!policy.applies(0, 0) && parse("on-failure").applies(1, 1000));
    }

    #[test]
    fn wait_doubles_to_a_minute_and_starts_anew_after_a_healthy_run() {
        let mut wait = BackOff::default();
        let mut next = |ran| wait.next(Duration::from_secs(ran)).as_millis();
        let waits: Vec<_> = (0..12).map(|_| next(1)).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]
        );
        assert_eq!([next(10), next(9), next(3600)], [100, 200, 100]);
    }
}
