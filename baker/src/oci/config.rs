//! An image's config: its command, user, environment and layers.
//!
//! Parses the fields that are used and ignores all others. `null` counts as absent, as tools disagree
//! about it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::Error as _;
use supermachine_formats::Digest;

use super::error::{Document, Error};
use super::platform::Platform;

/// What an OCI image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// The user, as `user`, `uid`, `user:group` or `uid:gid`; `None` is root.
    pub user: Option<String>,
    /// The environment, each as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The first words of the command line.
    pub entrypoint: Vec<String>,
    /// The words after the entrypoint, unless others are given.
    pub cmd: Vec<String>,
    /// The working directory; `None` is `/`.
    pub working_dir: Option<String>,
    /// The TCP ports that the image listens on, ascending.
    pub exposed_ports: Vec<u16>,
    /// The stop signal, by name or number.
    pub stop_signal: Option<String>,
    /// Volumes, ascending.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The architecture, in OCI's terms; empty if not stated.
    pub architecture: String,
    /// The variant of the architecture.
    pub variant: Option<String>,
    /// The operating system; empty if not stated.
    pub os: String,
    /// The digests of the layers' uncompressed tars, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a config whose content has the digest `digest`.
    ///
    /// # Errors
    /// [`Error::InvalidDocument`] if `json` is not a config.
    pub fn parse(json: &[u8], digest: Digest) -> Result<Self, Error> {
        serde_json::from_slice::<File>(json)
            .and_then(Self::from_file)
            .map_err(|source| Error::InvalidDocument { document: Document::Config, digest, source })
    }

    /// The platform that the image states, if it states one.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        (!self.os.is_empty() && !self.architecture.is_empty())
            .then(|| Platform::new(&self.os, &self.architecture, self.variant.as_deref()))
    }

    fn from_file(file: File) -> Result<Self, serde_json::Error> {
        let run = file.config.unwrap_or_default();
        let diff_ids = file
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default()
            .iter()
            .map(|text| text.parse().map_err(serde_json::Error::custom))
            .collect::<Result<_, _>>()?;
        let keys = |map: Option<BTreeMap<String, serde::de::IgnoredAny>>| {
            map.unwrap_or_default().into_keys()
        };
        let mut exposed_ports: Vec<u16> =
            keys(run.exposed_ports).filter_map(|port| tcp_port(&port)).collect();
        exposed_ports.sort_unstable();
        exposed_ports.dedup();
        let stated = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            user: stated(run.user),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            working_dir: stated(run.working_dir),
            exposed_ports,
            stop_signal: stated(run.stop_signal),
            volumes: keys(run.volumes).collect(),
            labels: run
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.unwrap_or_default()))
                .collect(),
            architecture: file.architecture.unwrap_or_default(),
            variant: stated(file.variant),
            os: file.os.unwrap_or_default(),
            diff_ids,
        })
    }
}

/// The port of `80` or `80/tcp`, but not of `53/udp`.
fn tcp_port(text: &str) -> Option<u16> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().ok()?;
    (protocol.eq_ignore_ascii_case("tcp") && port != 0).then_some(port)
}

#[derive(Deserialize)]
struct File {
    architecture: Option<String>,
    variant: Option<String>,
    os: Option<String>,
    config: Option<Run>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ImageConfig, Error> {
        ImageConfig::parse(json.as_bytes(), Digest::of(json.as_bytes()))
    }

    #[test]
    fn config_with_all_fields_is_read() {
        let layer = Digest::of(b"layer");
        let config = parse(&format!(
            r#"{{"created":"x","architecture":"arm64","variant":"v8","os":"linux","config":{{
                "User":"1:2","Env":["A=1","B"],"Entrypoint":["/e"],"Cmd":["c","d"],
                "WorkingDir":"/w","ExposedPorts":{{"443/tcp":{{}},"80":{{}},"53/udp":{{}},"x":{{}},
                "80/tcp":{{}}}},"StopSignal":"SIGQUIT","Volumes":{{"/v":{{}}}},
                "Labels":{{"a":"b","n":null}},"Healthcheck":{{"Test":["NONE"]}}}},
                "rootfs":{{"type":"layers","diff_ids":["{layer}"]}},"history":[]}}"#
        ))
        .unwrap();
        assert_eq!(config.user.as_deref(), Some("1:2"));
        assert_eq!(config.env, ["A=1", "B"]);
        assert_eq!(config.entrypoint, ["/e"]);
        assert_eq!(config.cmd, ["c", "d"]);
        assert_eq!(config.working_dir.as_deref(), Some("/w"));
        assert_eq!(config.exposed_ports, [80, 443]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.volumes, ["/v"]);
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.diff_ids, [layer]);
        assert_eq!(config.platform().unwrap().to_string(), "linux/arm64/v8");
    }

    #[test]
    fn config_with_nulls_and_gaps_is_empty() {
        let nulls = r#"{"architecture":null,"os":null,"config":{"User":"","Env":null,
            "Entrypoint":null,"Cmd":null,"WorkingDir":"","ExposedPorts":null,"Volumes":null,
            "Labels":null},"rootfs":{"diff_ids":null}}"#;
        for json in ["{}", r#"{"config":null,"rootfs":null}"#, nulls] {
            assert_eq!(parse(json).unwrap(), ImageConfig::default(), "{json}");
        }
        assert_eq!(parse("{}").unwrap().platform(), None);
    }

    #[test]
    fn config_with_wrong_types_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"config":{"Env":"A=1"}}"#,
            r#"{"rootfs":{"diff_ids":["md5:00"]}}"#,
            r#"{"os":1}"#,
        ] {
            assert!(
                matches!(
                    parse(json),
                    Err(Error::InvalidDocument { document: Document::Config, .. })
                ),
                "{json}"
            );
        }
    }
}
