//! Docker's `config.json` and Podman's `auth.json`, which share one format.
//!
//! Parses `auths`, `credHelpers` and `credsStore`, and decides what their keys cover.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::helper::Helper;
use super::secret::Credentials;
use crate::oci::error::Error;

/// Docker's key for Docker Hub.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The most bytes read from a file.
const MAX_FILE: u64 = 1 << 20;

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file with credentials, or names of credential helpers.
pub(super) struct CredentialFile {
    path: PathBuf,
    content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    auths: Option<BTreeMap<String, Option<AuthEntry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// An `auth` value that is not base64 of `user:password`.
#[derive(Debug, thiserror::Error)]
#[error("an auth value is not the base64 form of user:password")]
struct InvalidAuth;

impl CredentialFile {
    /// Reads the file; `None` if it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text).map_err(Error::io("read", path))?;
        let content = serde_json::from_slice(&text).map_err(|source| Error::DockerConfig {
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Some(Self { path: path.to_owned(), content }))
    }

    /// The helpers for `repository`: the one configured for it, then the general one.
    pub(super) fn helpers(&self, repository: &str) -> impl Iterator<Item = Helper<'_>> {
        let own = self.content.cred_helpers.as_ref().and_then(|all| longest(all, repository));
        let own = own.map(|(key, name)| Helper { name, server: key.to_owned() });
        let general = self.content.creds_store.as_deref();
        let server = server_key(host_of(repository)).to_owned();
        own.into_iter().chain(general.map(|name| Helper { name, server }))
    }

    /// The credentials for `repository` in the file itself.
    pub(super) fn stored(&self, repository: &str) -> Result<Option<Credentials>, Error> {
        let found = self.content.auths.as_ref().and_then(|all| longest(all, repository));
        let entry = found.and_then(|(_, entry)| entry.as_ref());
        let credentials = entry.map_or(Ok(None), AuthEntry::credentials);
        credentials.map_err(|source| Error::DockerConfig {
            path: self.path.clone(),
            source: source.into(),
        })
    }
}

/// Whether the file does not exist.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl AuthEntry {
    fn credentials(&self) -> Result<Option<Credentials>, InvalidAuth> {
        let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = stated(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken { token }));
        }
        if let Some(auth) = stated(&self.auth) {
            let plain = BASE64.decode(auth.trim()).map_err(|_| InvalidAuth)?;
            let plain = String::from_utf8(plain).map_err(|_| InvalidAuth)?;
            let (user, password) = plain.split_once(':').ok_or(InvalidAuth)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        Ok(match (stated(&self.username), stated(&self.password)) {
            (Some(user), Some(password)) => Some(Credentials::Password { user, password }),
            _ => None,
        })
    }
}

/// The entry with the longest key that covers `repository`. Of two equivalent keys, Docker's own
/// spelling wins.
fn longest<'a, T>(entries: &'a BTreeMap<String, T>, repository: &str) -> Option<(&'a str, &'a T)> {
    let server = server_key(host_of(repository));
    entries
        .iter()
        .filter_map(|(key, value)| Some((covered(key, repository)?, key == server, key, value)))
        .max_by_key(|(length, is_dockers, ..)| (*length, *is_dockers))
        .map(|(.., key, value)| (key.as_str(), value))
}

/// The length of the path in `key`, if `key` covers the repository.
fn covered(key: &str, repository: &str) -> Option<usize> {
    if !host_of(key).eq_ignore_ascii_case(host_of(repository)) {
        return None;
    }
    let (key, path) = (path_of(key), path_of(repository));
    let rest = path.strip_prefix(key)?;
    (key.is_empty() || rest.is_empty() || rest.starts_with('/')).then_some(key.len())
}

/// Docker's key for the registry `host`.
fn server_key(host: &str) -> &str {
    if host == "docker.io" { DOCKER_HUB_KEY } else { host }
}

fn host_of(key: &str) -> &str {
    let rest = without_scheme(key);
    match rest.split_once('/').map_or(rest, |(host, _)| host) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// The path after the host. Old keys of Docker have the protocol's version there, which is not a path.
fn path_of(key: &str) -> &str {
    let path = without_scheme(key).split_once('/').map_or("", |(_, path)| path);
    match path.trim_matches('/') {
        "v1" | "v2" => "",
        path => path,
    }
}

fn without_scheme(key: &str) -> &str {
    key.split_once("://").map_or(key, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded_or_not() {
        for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zg", "f")]
        {
            assert_eq!(BASE64.decode(text).unwrap(), plain.as_bytes(), "{text}");
        }
        assert!(BASE64.decode("Z-8=").is_err());
    }
}
