//! The label of a machine in the background: what its supervisor knows about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use supermachine::Image;

use crate::folders::FolderArg;
use crate::ports::Port;
use crate::restart_policy::RestartPolicy;

/// The stop signal of an image that names none.
const SIGTERM: u8 = 15;

/// The label that a supervisor gives its clients, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The machine's name.
    pub(crate) name: String,
    /// The snapshot's name at the machine's start.
    pub(crate) snapshot: String,
    pub(crate) digest: String,
    /// The store of the snapshot.
    pub(crate) store: PathBuf,
    /// The image that the snapshot was baked from.
    pub(crate) image: Option<String>,
    /// When the machine started, in seconds since 1970.
    pub(crate) started: u64,
    /// The signal that asks its entrypoint to exit.
    pub(crate) stop_signal: u8,
    pub(crate) ports: Vec<Port>,
    /// How often it has started again because its entrypoint exited.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// When it starts again, in milliseconds since 1970. `None` unless its entrypoint has exited.
    #[serde(default)]
    pub(crate) restarts_at: Option<u64>,
    #[serde(flatten)]
    pub(crate) options: MachineOptions,
}

/// Options of a machine in the background, besides its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineOptions {
    /// The host name, if it differs from the snapshot's.
    pub(crate) hostname: Option<String>,
    /// What it reaches, as `--net` has it; `None` for no network.
    #[serde(default)]
    pub(crate) network: Option<String>,
    /// The folders of the host and the volumes that it has.
    #[serde(default)]
    pub(crate) folders: Vec<FolderArg>,
    /// The stop signal, if it differs from the image's.
    #[serde(rename = "own_stop_signal")]
    pub(crate) stop_signal: Option<u8>,
    /// How many seconds the entrypoint gets to exit.
    pub(crate) stop_timeout: Option<u64>,
    /// Labels for the user's own tools.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether to forget the logs once the machine stops.
    pub(crate) remove: bool,
    /// When it starts again.
    #[serde(default)]
    pub(crate) restart: RestartPolicy,
}

impl Label {
    /// The label of a machine that starts now.
    pub(crate) fn new(
        name: &str,
        (store, snapshot): (&Path, &str),
        image: &Image,
        ports: Vec<Port>,
        options: MachineOptions,
    ) -> Self {
        let state = image.snapshot();
        let image_signal = state.stop.map_or(SIGTERM, |stop| stop.signal);
        Self {
            name: name.to_owned(),
            snapshot: snapshot.to_owned(),
            digest: image.digest().to_string(),
            store: store.to_owned(),
            image: state.workload.as_ref().map(|workload| workload.reference.clone()),
            started: now().as_secs(),
            stop_signal: options.stop_signal.unwrap_or(image_signal),
            ports,
            restarts: 0,
            restarts_at: None,
            options,
        }
    }

    /// Parses a label. Returns `None` for the label of another version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The label as one line of JSON.
    pub(crate) fn line(&self) -> String {
        // Serialization fails only for maps with keys that are not strings.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Records that the machine starts again after `wait`.
    pub(crate) fn restart_in(&mut self, wait: Duration) {
        self.restarts_at = u64::try_from((now() + wait).as_millis()).ok();
    }

    /// Records that the machine has started again.
    pub(crate) fn restarted(&mut self) {
        self.restarts += 1;
        self.restarts_at = None;
        self.started = now().as_secs();
    }

    /// How long it is until the machine starts again. `None` unless it waits for that.
    pub(crate) fn until_restart(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.restarts_at?).saturating_sub(now()))
    }

    /// What events say about the machine.
    pub(crate) fn attributes(&self) -> Vec<(&str, String)> {
        let labels = self.options.labels.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let image = self.image.iter().map(|image| ("image", image.clone()));
        labels.chain(image).chain([("snapshot", self.snapshot.clone())]).collect()
    }

    /// How long ago the machine started.
    pub(crate) fn age(&self) -> Duration {
        now().saturating_sub(Duration::from_secs(self.started))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Protocol;

    #[test]
    fn label_round_trips_as_one_line() {
        let label = Label {
            name: "web".into(),
            snapshot: "nginx".into(),
            digest: "sha256:00".into(),
            store: "/store".into(),
            image: None,
            started: 1,
            stop_signal: 3,
            ports: vec![Port {
                host: ([127, 0, 0, 1], 8080).into(),
                guest: 80,
                protocol: Protocol::Udp,
            }],
            restarts: 2,
            restarts_at: Some(5),
            options: MachineOptions {
                labels: BTreeMap::from([("a".into(), "b\nc".into())]),
                stop_timeout: Some(7),
                ..MachineOptions::default()
            },
        };
        let line = label.line();
        assert!(!line.contains('\n'), "{line}");
        let back = Label::parse(&line).unwrap();
        assert_eq!((back.options, back.ports, back.name), (label.options, label.ports, label.name));
        assert!(Label::parse("{}").is_none());
    }
}
