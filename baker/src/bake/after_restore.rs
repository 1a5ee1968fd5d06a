//! The action after each restore, as users write it.

use std::fmt;
use std::str::FromStr;

use supermachine_formats::wire::{Action, DEFAULT_STOP_SIGNAL};

use crate::error::InputError;
use crate::signals;

/// Characters that mean something to a shell.
const SPECIAL: &[char] = &[
    '|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '"', '\'', '*', '?', '[', ']', '#', '~',
    '{', '}', '!', '\n',
];

/// What each machine of a snapshot does after its restore, before it answers the first request.
///
/// All machines of a snapshot start with the random state that its programs drew before it: seeds,
/// session keys, generators in user space. The action lets them draw new values.
///
/// ```
/// use supermachine_baker::AfterRestore;
///
/// let action: AfterRestore = "signal:SIGHUP".parse()?;
/// assert_eq!(action.to_string(), "signal:HUP");
/// # Ok::<(), supermachine_baker::InputError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterRestore {
    /// The entrypoint is stopped and started again. Requests wait until it listens on the TCP ports
    /// below 32768 that it had before.
    Restart,
    /// The entrypoint receives this signal, 1 to 64. Requests do not wait for what it does then.
    Signal(u8),
    /// The command runs as the entrypoint's user, with its environment and in its folder, and must exit
    /// with status 0. `/bin/sh -c` runs a command with characters that are special to a shell; otherwise
    /// spaces separate its words.
    Exec(String),
    /// Nothing, and the bake does not warn of random values that machines share.
    Nothing,
}

impl AfterRestore {
    /// The action for the agent. `stop_signal` is the image's.
    pub(crate) fn action(&self, stop_signal: Option<u8>) -> Option<Action> {
        match self {
            Self::Restart => {
                Some(Action::Restart { signal: stop_signal.unwrap_or(DEFAULT_STOP_SIGNAL) })
            }
            Self::Signal(signal) => Some(Action::Signal(*signal)),
            Self::Exec(command) => Some(Action::Exec(argv(command))),
            Self::Nothing => None,
        }
    }
}

fn argv(command: &str) -> Vec<Vec<u8>> {
    let bytes = |word: &str| word.as_bytes().to_vec();
    if command.contains(SPECIAL) {
        ["/bin/sh", "-c", command].map(bytes).into()
    } else {
        command.split_whitespace().map(bytes).collect()
    }
}

impl FromStr for AfterRestore {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let action = match text.split_once(':') {
            None if text == "restart" => Some(Self::Restart),
            None if text == "none" => Some(Self::Nothing),
            Some(("signal", signal)) => signals::number(signal).map(Self::Signal),
            Some(("exec", command)) if !command.trim().is_empty() => {
                Some(Self::Exec(command.to_owned()))
            }
            _ => None,
        };
        action.ok_or_else(|| InputError::InvalidAfterRestore { text: text.to_owned() })
    }
}

impl fmt::Display for AfterRestore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart => f.write_str("restart"),
            Self::Signal(signal) => write!(f, "signal:{}", signals::name(*signal)),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Nothing => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AfterRestore {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_round_trips() {
        for text in ["restart", "signal:HUP", "signal:64", "exec:nginx -s reload", "none"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("signal:sigusr1"), AfterRestore::Signal(10));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "Restart", "restart:", "signal", "signal:", "signal:65", "exec:", "exec: "]
        {
            let error = text.parse::<AfterRestore>().unwrap_err();
            assert!(matches!(error, InputError::InvalidAfterRestore { .. }), "{text}");
        }
    }

    #[test]
    fn restart_uses_the_images_stop_signal() {
        assert_eq!(parse("restart").action(Some(3)), Some(Action::Restart { signal: 3 }));
        assert_eq!(parse("restart").action(None), Some(Action::Restart { signal: 15 }));
    }

    #[test]
    fn shell_runs_only_what_needs_it() {
        let words = |text: &str| match parse(text).action(None) {
            Some(Action::Exec(argv)) => {
                argv.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(words("exec:redis-cli  config --set=a"), ["redis-cli", "config", "--set=a"]);
        assert_eq!(words("exec:date > /tmp/at"), ["/bin/sh", "-c", "date > /tmp/at"]);
    }
}
