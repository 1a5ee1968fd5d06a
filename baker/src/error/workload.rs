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
        let or_nothing = |text: &str| match text.trim() {
            "" => "nothing".to_owned(),
            text => format!("\n{text}\n"),
        };
        let (output, console) = (or_nothing(&self.output), or_nothing(&self.console));
        write!(f, "its output ends with {output}; the guest's console ends with {console}")
    }
}
