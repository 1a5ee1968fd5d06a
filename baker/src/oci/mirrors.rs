//! Mirrors: other places to fetch a repository from, as Docker and Podman configure them.
//!
//! Parses `registries.conf` (version 2: `[[registry]]` with `prefix`, `location`, `insecure`,
//! `blocked` and `[[registry.mirror]]`) and `registry-mirrors` of Docker's `daemon.json`, which counts
//! for Docker Hub alone. The longest prefix that covers the repository wins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Error;
use super::options::FetchOptions;
use super::reference::Reference;

/// A place to fetch an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) reference: Reference,
    /// Whether it may be used without TLS.
    pub(crate) insecure: bool,
}

#[derive(Debug, Default, Deserialize)]
struct RegistriesConf {
    #[serde(default)]
    registry: Vec<RegistryTable>,
}

#[derive(Debug, Deserialize)]
struct RegistryTable {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Debug, Deserialize)]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DaemonJson {
    #[serde(default)]
    registry_mirrors: Vec<String>,
}

/// The places to fetch `reference` from, mirrors first.
///
/// # Errors
/// A file is malformed, or blocks the registry.
pub(crate) fn endpoints(
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Vec<Endpoint>, Error> {
    let name = format!("{}/{}", reference.registry(), reference.repository());
    let mut all = Vec::new();
    let mut own = Endpoint { reference: reference.clone(), insecure: options.insecure };
    if let Some(table) = table_for(&name, &options.mirror_files.registries)? {
        let prefix = table.prefix().to_owned();
        if table.blocked {
            return Err(Error::Blocked { reference: reference.to_string(), prefix });
        }
        let rest = name.strip_prefix(&prefix).unwrap_or_default();
        for mirror in &table.mirror {
            let moved = reference.moved(&format!("{}{rest}", mirror.location));
            all.extend(moved.map(|reference| Endpoint { reference, insecure: mirror.insecure }));
        }
        if let Some(location) = &table.location
            && let Some(moved) = reference.moved(&format!("{location}{rest}"))
        {
            own.reference = moved;
        }
        own.insecure |= table.insecure;
    }
    if reference.registry() == "docker.io" {
        for mirror in docker_mirrors(options.mirror_files.docker.as_deref())? {
            let insecure = mirror.starts_with("http://");
            let host = mirror.split_once("://").map_or(mirror.as_str(), |(_, rest)| rest);
            let location = format!("{}/{}", host.trim_end_matches('/'), reference.repository());
            let moved = reference.moved(&location);
            all.extend(moved.map(|reference| Endpoint { reference, insecure }));
        }
    }
    all.push(own);
    Ok(all)
}

impl RegistryTable {
    fn prefix(&self) -> &str {
        self.prefix.as_deref().or(self.location.as_deref()).unwrap_or_default()
    }

    /// Whether the prefix covers a repository, at a border of its path.
    fn covers(&self, name: &str) -> bool {
        let prefix = self.prefix();
        let rest = name.strip_prefix(prefix);
        !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The table with the longest prefix that covers `name`, of the first file that exists.
fn table_for(name: &str, files: &[PathBuf]) -> Result<Option<RegistryTable>, Error> {
    for path in files {
        let Some(text) = read(path)? else { continue };
        let conf: RegistriesConf = toml::from_str(&text)
            .map_err(|source| Error::MirrorFile { path: path.clone(), source: source.into() })?;
        let covering = conf.registry.into_iter().filter(|table| table.covers(name));
        return Ok(covering.max_by_key(|table| table.prefix().len()));
    }
    Ok(None)
}

fn docker_mirrors(path: Option<&Path>) -> Result<Vec<String>, Error> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    let json: DaemonJson = serde_json::from_str(&text)
        .map_err(|source| Error::MirrorFile { path: path.to_owned(), source: source.into() })?;
    Ok(json.registry_mirrors)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirror_files::MirrorFiles;
    use super::*;

    fn options(conf: &str, json: &str) -> (tempfile::TempDir, FetchOptions) {
        let dir = tempfile::tempdir().unwrap();
        let (toml, daemon) = (dir.path().join("registries.conf"), dir.path().join("daemon.json"));
        fs::write(&toml, conf).unwrap();
        fs::write(&daemon, json).unwrap();
        let mut options = FetchOptions::default();
        let registries = vec![dir.path().join("missing"), toml];
        options.mirror_files = MirrorFiles { registries, docker: Some(daemon) };
        (dir, options)
    }

    fn found(options: &FetchOptions, text: &str) -> Result<Vec<(String, bool)>, Error> {
        let all = endpoints(&text.parse().unwrap(), options)?;
        Ok(all.into_iter().map(|e| (e.reference.to_string(), e.insecure)).collect())
    }

    fn expected(list: &[(&str, bool)]) -> Vec<(String, bool)> {
        list.iter().map(|(text, insecure)| ((*text).to_owned(), *insecure)).collect()
    }

    #[test]
    fn mirrors_of_the_longest_prefix_come_first() {
        let conf = r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "x.example"
            location = "y.example/x"
            [[registry]]
            location = "x.example/team"
            insecure = true
            [[registry.mirror]]
            location = "m.example:5000/copy"
            insecure = true
            [[registry.mirror]]
            location = "n.example"
            [[registry]]
            prefix = "bad.example"
            blocked = true
        "#;
        let (_dir, options) = options(conf, "{}");
        let team = [
            ("m.example:5000/copy/app:1", true),
            ("n.example/app:1", false),
            ("x.example/team/app:1", true),
        ];
        assert_eq!(found(&options, "x.example/team/app:1").unwrap(), expected(&team));
        let other = [("y.example/x/teams/app:1", false)];
        assert_eq!(found(&options, "x.example/teams/app:1").unwrap(), expected(&other));
        let none = [("docker.io/library/redis:7", false)];
        assert_eq!(found(&options, "redis:7").unwrap(), expected(&none));
        assert!(matches!(found(&options, "bad.example/a"), Err(Error::Blocked { .. })));
    }

    #[test]
    fn dockers_mirrors_are_for_docker_hub() {
        let json = r#"{"registry-mirrors": ["https://m.example/", "http://127.0.0.1:5000"]}"#;
        let (_dir, options) = options("", json);
        let hub = [
            ("m.example/library/redis:7", false),
            ("127.0.0.1:5000/library/redis:7", true),
            ("docker.io/library/redis:7", false),
        ];
        assert_eq!(found(&options, "redis:7").unwrap(), expected(&hub));
        assert_eq!(
            found(&options, "x.example/a:1").unwrap(),
            expected(&[("x.example/a:1", false)])
        );
    }

    #[test]
    fn digest_is_kept_at_a_mirror() {
        let json = r#"{"registry-mirrors": ["https://m.example"]}"#;
        let (_dir, options) = options("", json);
        let digest = supermachine_formats::Digest::of(b"x");
        let all = endpoints(&format!("redis@{digest}").parse().unwrap(), &options).unwrap();
        assert!(all.iter().all(|endpoint| endpoint.reference.digest() == Some(digest)));
    }

    #[test]
    fn malformed_files_are_named() {
        for (conf, json) in [("[[registry]", "{}"), ("", "{")] {
            let (_dir, options) = options(conf, json);
            assert!(matches!(found(&options, "redis"), Err(Error::MirrorFile { .. })));
        }
    }
}
