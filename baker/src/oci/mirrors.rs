//! Mirrors: other places to fetch a repository from, as Docker and Podman configure them.
//!
//! Applies `registries.conf`, and of Docker's `daemon.json` `registry-mirrors`, which count for Docker
//! Hub alone, and `insecure-registries`. The longest prefix that covers the repository wins.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

use super::address_range::AddressRange;
use super::error::Error;
use super::options::FetchOptions;
use super::reference::Reference;
use super::registries_conf::{RegistriesConf, read};

/// A place to fetch an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) reference: Reference,
    /// Whether it may be used without TLS.
    pub(crate) insecure: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct DaemonJson {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// The place of the registry itself.
///
/// # Errors
/// A file is malformed, or blocks the registry.
pub(crate) fn own_endpoint(
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Endpoint, Error> {
    let own = endpoints(reference, options)?.pop();
    let insecure = options.insecure;
    Ok(own.unwrap_or_else(|| Endpoint { reference: reference.clone(), insecure }))
}

impl Endpoint {
    /// The options for this place. The caller's credentials are for the registry itself alone.
    pub(crate) fn options(&self, reference: &Reference, options: &FetchOptions) -> FetchOptions {
        let mut own = options.clone();
        own.insecure = self.insecure;
        if self.reference.registry() != reference.registry() {
            own.credentials = None;
        }
        own
    }
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
    let conf = RegistriesConf::read(&options.registry_files)?;
    if let Some((table, rest)) = conf.table_for(&name) {
        if table.blocked {
            let prefix = table.prefix().to_owned();
            return Err(Error::Blocked { reference: reference.to_string(), prefix });
        }
        for mirror in table.mirrors(reference.digest().is_some()) {
            let moved = reference.moved(&format!("{}{rest}", mirror.location));
            all.extend(moved.map(|reference| Endpoint { reference, insecure: mirror.insecure }));
        }
        if let Some(location) = table.location.as_deref().filter(|location| !location.is_empty())
            && let Some(moved) = reference.moved(&format!("{location}{rest}"))
        {
            own.reference = moved;
        }
        own.insecure |= table.insecure;
    }
    let docker = docker_settings(options.registry_files.docker.as_deref())?;
    if reference.registry() == "docker.io" {
        for mirror in &docker.registry_mirrors {
            let insecure = mirror.starts_with("http://");
            let host = mirror.split_once("://").map_or(mirror.as_str(), |(_, rest)| rest);
            let location = format!("{}/{}", host.trim_end_matches('/'), reference.repository());
            let moved = reference.moved(&location);
            all.extend(moved.map(|reference| Endpoint { reference, insecure }));
        }
    }
    all.push(own);
    for endpoint in &mut all {
        endpoint.insecure |= docker.is_insecure(endpoint.reference.registry());
    }
    Ok(all)
}

impl DaemonJson {
    /// Whether Docker uses the registry `HOST[:PORT]` without TLS, if need be.
    fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        self.insecure_registries.iter().any(|entry| {
            let entry = entry.split_once("://").map_or(entry.as_str(), |(_, rest)| rest);
            let covers = |range: AddressRange| address.is_some_and(|it| range.contains(it));
            entry == registry || entry.parse().is_ok_and(covers)
        })
    }
}

fn docker_settings(path: Option<&Path>) -> Result<DaemonJson, Error> {
    let Some(path) = path else { return Ok(DaemonJson::default()) };
    let Some(text) = read(path)? else { return Ok(DaemonJson::default()) };
    serde_json::from_str(&text)
        .map_err(|source| Error::RegistryFile { path: path.to_owned(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::registry_files::RegistryFiles;
    use super::*;

    fn options(conf: &str, json: &str) -> (tempfile::TempDir, FetchOptions) {
        let dir = tempfile::tempdir().unwrap();
        let (toml, daemon) = (dir.path().join("registries.conf"), dir.path().join("daemon.json"));
        fs::write(&toml, conf).unwrap();
        fs::write(&daemon, json).unwrap();
        let mut options = FetchOptions::default();
        let registries = vec![dir.path().join("missing"), toml];
        options.registry_files =
            RegistryFiles { registries, short_names: None, docker: Some(daemon) };
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
            assert!(matches!(found(&options, "redis"), Err(Error::RegistryFile { .. })));
        }
    }

    #[test]
    fn dockers_insecure_registries_are_hosts_or_ranges_of_addresses() {
        let json =
            r#"{"insecure-registries": ["r.example:5000", "http://s.example", "10.1.0.0/16"]}"#;
        let (_dir, options) = options("", json);
        for (host, insecure) in [
            ("r.example:5000", true),
            ("r.example", false),
            ("s.example", true),
            ("10.1.2.3:5000", true),
            ("10.2.2.3:5000", false),
        ] {
            let text = format!("{host}/a:1");
            assert_eq!(found(&options, &text).unwrap(), expected(&[(&text, insecure)]));
        }
    }
}
