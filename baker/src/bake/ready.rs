//! Readiness conditions, as users write them.

use std::fmt;
use std::str::FromStr;

use regex::bytes::Regex;
use supermachine_formats::wire::Readiness;

use crate::error::InputError;

/// When a machine is ready to be captured.
///
/// ```
/// use supermachine_baker::Ready;
///
/// let ready: Ready = "tcp:6379".parse()?;
/// assert_eq!(ready.to_string(), "tcp:6379");
/// # Ok::<(), supermachine_baker::InputError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Ready {
    /// The first of: a port that the image exposes listens, the entrypoint exits with status 0, or it
    /// writes nothing for two seconds (at least ten seconds after its start if the image exposes ports,
    /// for services that start slowly and silently).
    #[default]
    Auto,
    /// This TCP port listens in the guest.
    Tcp(u16),
    /// The entrypoint's output matches the expression.
    Log(Regex),
    /// The command, run repeatedly, exits with status 0. Spaces separate its words.
    Exec(Vec<String>),
    /// The entrypoint exits with status 0.
    Exit,
}

impl Ready {
    /// When an entrypoint that the agent starts anew is ready, beside the ports that it listens on. The agent
    /// knows no expressions: it waits for a text that matches only itself.
    pub(crate) fn of_restarted(&self) -> Readiness {
        match self {
            Self::Log(pattern) if regex::escape(pattern.as_str()) == pattern.as_str() => {
                Readiness::Writes(pattern.as_str().into())
            }
            Self::Exec(words) => {
                Readiness::Answers(words.iter().map(|word| word.clone().into()).collect())
            }
            Self::Auto | Self::Tcp(_) | Self::Log(_) | Self::Exit => Readiness::Started,
        }
    }
}

impl FromStr for Ready {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let invalid = || InputError::InvalidReady { text: text.to_owned() };
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "exit" => Ok(Self::Exit),
            Some(("tcp", port)) => match port.parse() {
                Ok(0) | Err(_) => Err(invalid()),
                Ok(port) => Ok(Self::Tcp(port)),
            },
            Some(("log", pattern)) => Regex::new(pattern)
                .map(Self::Log)
                .map_err(|source| InputError::InvalidPattern { source }),
            Some(("exec", command)) => {
                let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
                if words.is_empty() { Err(invalid()) } else { Ok(Self::Exec(words)) }
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Log(pattern) => write!(f, "log:{pattern}"),
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
            Self::Exit => f.write_str("exit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_round_trips() {
        for text in ["auto", "exit", "tcp:80", "log:ready to accept", "exec:redis-cli ping"] {
            assert_eq!(text.parse::<Ready>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn restarted_entrypoint_is_ready_as_at_the_bake_where_the_agent_can_tell() {
        let of = |text: &str| text.parse::<Ready>().unwrap().of_restarted();
        assert_eq!(of("log:ready to accept"), Readiness::Writes(b"ready to accept".to_vec()));
        assert_eq!(of("exec:ping -c 1").clone(), {
            Readiness::Answers(["ping", "-c", "1"].map(|word| word.as_bytes().to_vec()).into())
        });
        for text in ["auto", "exit", "tcp:80", "log:ready.*accept", "log:^ready"] {
            assert_eq!(of(text), Readiness::Started, "{text}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "tcp", "tcp:", "tcp:0", "tcp:65536", "exec:", "exec:  ", "udp:53"] {
            let error = text.parse::<Ready>().unwrap_err();
            assert!(matches!(error, InputError::InvalidReady { .. }), "{text}");
        }
        assert!(matches!("log:(".parse::<Ready>(), Err(InputError::InvalidPattern { .. })));
    }
}
