//! Programs of images that did not become ready.

use std::time::Duration;

use supermachine_formats::wire::Failure;

/// The image's program did not become ready; see its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The entrypoint could not be started.
    #[error("entrypoint cannot be started: in the guest, {failure}")]
    EntrypointMissing {
        /// What failed, on what, with the guest's error number.
        failure: Failure,
    },
    /// The entrypoint exited before the machine was ready.
    #[error("entrypoint ended with {status} before it was ready ({ready}); {last_output}")]
    EntrypointEnded {
        /// Its exit code or signal.
        status: String,
        /// The readiness condition.
        ready: String,
        /// The end of its output and of the guest's console.
        last_output: LastOutput,
    },
    /// The machine was not ready in time.
    #[error("not ready ({ready}) within {limit:?}; {last_output}")]
    NotReady {
        /// The readiness condition.
        ready: String,
        /// The time allowed.
        limit: Duration,
        /// The end of the entrypoint's output and of the guest's console.
        last_output: LastOutput,
    },
    /// The warm-up did not succeed.
    #[error("warm-up failed")]
    Warmup {
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The last output of a machine that did not become ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastOutput {
    /// The end of the entrypoint's output, both streams together.
    pub output: String,
    /// The end of the guest kernel's messages.
    pub console: String,
}

impl std::fmt::Display for LastOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.output.trim() {
            "" => f.write_str("it has written nothing")?,
            output => write!(f, "its output ends with\n{output}\n")?,
        }
        match self.console.trim() {
            "" => Ok(()),
            console => write!(f, "; the guest's console ends with\n{console}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_said_once() {
        let said = |output: &str, console: &str| {
            LastOutput { output: output.to_owned(), console: console.to_owned() }.to_string()
        };
        assert_eq!(said("", "\n"), "it has written nothing");
        assert_eq!(said("a\n", ""), "its output ends with\na\n");
        assert_eq!(said("", "k"), "it has written nothing; the guest's console ends with\nk\n");
    }
}
