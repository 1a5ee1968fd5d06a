//! What a supervisor tells of its machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use supermachine::Image;

use crate::ports::Port;

/// What asks an entrypoint to end whose image names no signal.
const SIGTERM: u8 = 15;

/// The label that clients of a machine are told, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The machine's name.
    pub(crate) name: String,
    /// The snapshot's name, when the machine started.
    pub(crate) snapshot: String,
    pub(crate) digest: String,
    /// The image that the snapshot was made of.
    pub(crate) image: Option<String>,
    /// When the machine started, in seconds since 1970.
    pub(crate) started: u64,
    /// How its entrypoint is asked to end.
    pub(crate) stop_signal: u8,
    pub(crate) ports: Vec<Port>,
}

impl Label {
    /// That of a machine that starts now.
    pub(crate) fn new(name: &str, snapshot: &str, image: &Image, ports: Vec<Port>) -> Self {
        let state = image.snapshot();
        Self {
            name: name.to_owned(),
            snapshot: snapshot.to_owned(),
            digest: image.digest().to_string(),
            image: state.workload.as_ref().map(|workload| workload.reference.clone()),
            started: now().as_secs(),
            stop_signal: state.stop.map_or(SIGTERM, |stop| stop.signal),
            ports,
        }
    }

    /// Reads what a supervisor told; none if it is a program that labels otherwise.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The label on one line.
    pub(crate) fn line(&self) -> String {
        // It has no map with odd keys, so that it always can be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How long the machine has run.
    pub(crate) fn age(&self) -> Duration {
        now().saturating_sub(Duration::from_secs(self.started))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
