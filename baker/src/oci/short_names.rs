//! Short names: names of images without a registry, as users type them.
//!
//! An alias of `registries.conf` says what a short name means. Without one, the registries that
//! `unqualified-search-registries` lists are searched in their order. Without such a list, a short name
//! is Docker Hub's. [`Reference`] itself knows only the last rule, so that what a package declares means
//! the same on every host.

use super::cache::BlobStore;
use super::error::Error;
use super::fetch::resolve;
use super::options::FetchOptions;
use super::progress::Event;
use super::reference::{ImageSource, Reference};
use super::registries_conf::{RegistriesConf, Setting};

/// The images that a user may mean by `text`, the first choice first. There are several only for a short
/// name without an alias, if several registries are to be searched.
///
/// # Errors
/// `text` names no image, the user's configuration is malformed, or credentials are given for a name that
/// several registries may have.
pub fn candidates(text: &str, options: &FetchOptions) -> Result<Vec<ImageSource>, Error> {
    let source: ImageSource = text.parse()?;
    let (ImageSource::Registry(reference), Some(name)) = (&source, short_name(text)) else {
        return Ok(vec![source]);
    };
    let conf = RegistriesConf::read(&options.registry_files)?;
    if let Some(alias) = conf.alias(name) {
        return Ok(vec![ImageSource::Registry(aliased(reference, alias)?)]);
    }
    let search = conf.search.iter().map(|registry| searched(reference, name, registry));
    let all = search.collect::<Result<Vec<_>, _>>()?;
    if all.is_empty() {
        return Ok(vec![source]);
    }
    if all.len() > 1 && options.credentials.is_some() {
        let registries = conf.search.into_iter().map(|registry| registry.value).collect();
        return Err(Error::SeveralRegistries { name: text.to_owned(), registries });
    }
    Ok(all.into_iter().map(ImageSource::Registry).collect())
}

/// The first of the [`candidates`] for `text` that its registry has. Does not ask for the last one: a fetch
/// will.
///
/// # Errors
/// Those of [`candidates`], and any [`Error`] that does not only mean that a registry lacks the image.
pub fn locate(text: &str, blobs: &BlobStore, options: &FetchOptions) -> Result<ImageSource, Error> {
    let mut left = candidates(text, options)?;
    // There is one candidate at least.
    let last = left.split_off(left.len().saturating_sub(1));
    for source in left {
        match resolve(&source, blobs, options) {
            Ok(_) => return Ok(source),
            Err(error) if is_elsewhere(&error) => {
                options.report(Event::NotThere { reference: &source.to_string(), error: &error });
            }
            Err(error) => return Err(error),
        }
    }
    last.into_iter().next().map_or_else(|| text.parse(), Ok)
}

/// Whether another registry may have what this one refuses.
fn is_elsewhere(error: &Error) -> bool {
    matches!(
        error,
        Error::NoSuchImage { .. }
            | Error::Unauthorized { .. }
            | Error::Unreachable { .. }
            | Error::Registry { .. }
            | Error::TokenService { .. }
            | Error::NotCached { .. }
            | Error::Blocked { .. }
    )
}

/// The name without tag and digest, if it states no registry.
fn short_name(text: &str) -> Option<&str> {
    // `docker://` states that a registry is meant as Docker would.
    if text.contains("://") {
        return None;
    }
    let name = text.split('@').next().unwrap_or(text);
    let (folder, last) = name.rsplit_once('/').map_or((None, name), |(a, b)| (Some(a), b));
    let last = last.split(':').next().unwrap_or(last);
    let first = folder.and_then(|folder| folder.split('/').next()).unwrap_or_default();
    let states_registry = first.contains(['.', ':', '[']) || first == "localhost";
    let length = folder.map_or(0, |folder| folder.len() + 1) + last.len();
    if states_registry { None } else { name.get(..length) }
}

fn aliased(reference: &Reference, alias: &Setting) -> Result<Reference, Error> {
    let whole = "the alias must be REGISTRY/NAME, without a tag or digest";
    let invalid = |source| Error::RegistryFile { path: alias.path.clone(), source };
    let target: Reference = alias.value.parse().map_err(|error: Error| invalid(error.into()))?;
    let location = format!("{}/{}", target.registry(), target.repository());
    let states_all = short_name(&alias.value).is_none() && target.digest().is_none();
    let moved = reference.moved(&location).filter(|_| states_all && !has_tag(&alias.value));
    moved.ok_or_else(|| invalid(format!("{:?}: {whole}", alias.value).into()))
}

fn has_tag(text: &str) -> bool {
    text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn searched(reference: &Reference, name: &str, registry: &Setting) -> Result<Reference, Error> {
    if registry.value == "docker.io" {
        return Ok(reference.clone());
    }
    let location = format!("{}/{name}", registry.value);
    let parsed = location.parse::<Reference>().ok();
    let moved = parsed.filter(|_| short_name(&location).is_none());
    let invalid = || Error::RegistryFile {
        path: registry.path.clone(),
        source: format!("{:?} is not a registry", registry.value).into(),
    };
    moved.and_then(|_| reference.moved(&location)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::registry_files::RegistryFiles;
    use super::*;

    fn options(conf: &str) -> (tempfile::TempDir, FetchOptions) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        fs::write(&path, conf).unwrap();
        let mut registry_files = RegistryFiles::none();
        registry_files.registries = vec![path];
        (dir, FetchOptions { registry_files, ..FetchOptions::default() })
    }

    fn found(conf: &str, text: &str) -> Result<Vec<String>, Error> {
        let (_dir, options) = options(conf);
        Ok(candidates(text, &options)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn short_names_state_no_registry() {
        for (text, name) in [
            ("redis", Some("redis")),
            ("redis:7", Some("redis")),
            ("grafana/loki:3@sha256:0", Some("grafana/loki")),
            ("localhost/app", None),
            ("r.example/app", None),
            ("r:5000/app:1", None),
            ("[::1]:5000/app", None),
            ("docker://redis", None),
        ] {
            assert_eq!(short_name(text), name, "{text}");
        }
    }

    #[test]
    fn short_name_is_an_alias_or_searched_or_docker_hubs() {
        let aliases =
            "[aliases]\nredis = \"r.example/db/redis\"\n\"team/app\" = \"localhost:5/app\"\n";
        let search = "unqualified-search-registries = [\"s.example/sub\", \"docker.io\"]\n";
        let both = format!("{search}{aliases}");
        let digest = supermachine_formats::Digest::of(b"x");
        for (conf, text, expected) in [
            ("", "redis:7", &["docker.io/library/redis:7"][..]),
            (aliases, "redis:7", &["r.example/db/redis:7"]),
            (aliases, "team/app", &["localhost:5/app:latest"]),
            (aliases, "team/app/x", &["docker.io/team/app/x:latest"]),
            (aliases, "docker.io/library/redis", &["docker.io/library/redis:latest"]),
            (&both, "redis", &["r.example/db/redis:latest"]),
            (&both, "nginx", &["s.example/sub/nginx:latest", "docker.io/library/nginx:latest"]),
            (&both, "a/b:1", &["s.example/sub/a/b:1", "docker.io/a/b:1"]),
            (&both, "x.example/a", &["x.example/a:latest"]),
            (&both, "./nosuch.tar", &["./nosuch.tar"]),
        ] {
            assert_eq!(found(conf, text).unwrap(), expected, "{text}");
        }
        let pinned = found(aliases, &format!("redis@{digest}")).unwrap();
        assert_eq!(pinned, [format!("r.example/db/redis@{digest}")]);
    }

    #[test]
    fn alias_or_registry_that_is_none_is_refused() {
        for conf in [
            "[aliases]\nredis = \"redis\"",
            "[aliases]\nredis = \"r.example/redis:7\"",
            "[aliases]\nredis = \"r.example/Redis\"",
            "unqualified-search-registries = [\"nohost\"]",
            "unqualified-search-registries = [\"r.example/A\"]",
        ] {
            assert!(matches!(found(conf, "redis"), Err(Error::RegistryFile { .. })), "{conf}");
        }
    }
}
