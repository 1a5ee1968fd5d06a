//! Credentials for registries, as Docker's configuration keeps them.
//!
//! Owns the reading of `config.json` (`auths`, `credHelpers`, `credsStore`) and the running of
//! credential helpers. It sends nothing anywhere: how credentials reach a registry is the
//! session's business. A secret is never part of an error or of debug output.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::error::{Error, HelperFault};

/// What Docker calls its own registry in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The most bytes that are read from a configuration or a helper.
const MAX_INPUT: u64 = 1 << 20;

/// What is shown to a registry, or to its token service.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password, or an access token in its place.
        password: String,
    },
    /// A token that the token service exchanges for others.
    IdentityToken {
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::IdentityToken { .. } => f.debug_struct("IdentityToken").finish_non_exhaustive(),
        }
    }
}

/// The folder of Docker's configuration: `$DOCKER_CONFIG`, else `~/.docker`.
#[must_use]
pub fn docker_config_dir() -> Option<PathBuf> {
    let stated = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    stated("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| stated("HOME").map(|home| PathBuf::from(home).join(".docker")))
}

/// Looks up what Docker's configuration in `dir` knows about `registry`: the helper made for it,
/// then the general helper, then what stands in the file itself.
///
/// # Errors
/// [`Error::DockerConfig`], [`Error::CredentialHelper`] and [`Error::Io`]. That nothing is known
/// is none.
pub fn find_credentials(dir: &Path, registry: &str) -> Result<Option<Credentials>, Error> {
    let path = dir.join("config.json");
    let Some(config) = read_config(&path)? else { return Ok(None) };
    let helpers = config.cred_helpers.unwrap_or_default();
    let helper = lookup(&helpers, registry).map(|(key, helper)| (helper.as_str(), key.to_owned()));
    let store = config.creds_store.as_deref().map(|store| (store, server_key(registry)));
    for (helper, server) in helper.into_iter().chain(store) {
        if let Some(found) = ask_helper(helper, &server, registry)? {
            return Ok(Some(found));
        }
    }
    let auths = config.auths.unwrap_or_default();
    match lookup(&auths, registry) {
        None => Ok(None),
        Some((_, entry)) => {
            entry.credentials().map_err(|fault| Error::DockerConfig { path, source: fault.into() })
        }
    }
}

/// An `auth` value that is not base64 of `user:password`.
#[derive(Debug, thiserror::Error)]
#[error("an auth value is not the base64 form of user:password")]
struct InvalidAuth;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    auths: Option<BTreeMap<String, AuthEntry>>,
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

impl AuthEntry {
    fn credentials(&self) -> Result<Option<Credentials>, InvalidAuth> {
        let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = stated(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken { token }));
        }
        if let Some(auth) = stated(&self.auth) {
            let plain = decode_base64(&auth).ok_or(InvalidAuth)?;
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

fn read_config(path: &Path) -> Result<Option<ConfigFile>, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_INPUT).read_to_end(&mut text).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Error::DockerConfig { path: path.to_owned(), source: source.into() })
}

/// The entry whose key means `registry`: the key as it is, else without scheme and path.
fn lookup<'a, T>(entries: &'a BTreeMap<String, T>, registry: &str) -> Option<(&'a str, &'a T)> {
    let server = server_key(registry);
    entries
        .get_key_value(&server)
        .or_else(|| entries.get_key_value(registry))
        .or_else(|| entries.iter().find(|(key, _)| host_of(key) == host_of(registry)))
        .map(|(key, value)| (key.as_str(), value))
}

/// What `registry` is called in the configuration.
fn server_key(registry: &str) -> String {
    if host_of(registry) == "docker.io" { DOCKER_HUB_KEY } else { registry }.to_owned()
}

fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperReply {
    username: Option<String>,
    secret: Option<String>,
}

/// Runs `docker-credential-HELPER get`. It may ask its user something, so it is not hurried.
fn ask_helper(helper: &str, server: &str, registry: &str) -> Result<Option<Credentials>, Error> {
    let program = format!("docker-credential-{helper}");
    let failed = |source| Error::CredentialHelper {
        helper: program.clone(),
        registry: registry.to_owned(),
        source,
    };
    if helper.contains('/') {
        return Err(failed(HelperFault::Run { source: io::ErrorKind::InvalidInput.into() }));
    }
    let (status, reply) =
        run(&program, server).map_err(|source| failed(HelperFault::Run { source }))?;
    if !status.success() {
        let message = String::from_utf8_lossy(reply.get(..reply.len().min(200)).unwrap_or(&reply));
        if message.contains("credentials not found") {
            return Ok(None);
        }
        let message = message.trim().to_owned();
        return Err(failed(HelperFault::Failed { status, message }));
    }
    let reply: HelperReply =
        serde_json::from_slice(&reply).map_err(|_| failed(HelperFault::Reply))?;
    let stated = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(match (stated(reply.username), stated(reply.secret)) {
        (Some(user), Some(token)) if user == "<token>" => {
            Some(Credentials::IdentityToken { token })
        }
        (Some(user), Some(password)) => Some(Credentials::Password { user, password }),
        _ => None,
    })
}

fn run(program: &str, input: &str) -> io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let exchange = |child: &mut std::process::Child| -> io::Result<Vec<u8>> {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that ends without reading answers all the same.
            let _ = stdin.write_all(input.as_bytes());
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_INPUT).read_to_end(&mut output)?;
        }
        Ok(output)
    };
    let output = exchange(&mut child);
    if output.is_err() {
        // It may have ended by itself meanwhile; what counts is that it is waited for.
        let _ = child.kill();
    }
    Ok((child.wait()?, output?))
}

/// Standard base64, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().trim_end_matches('=').bytes();
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0u32);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xfff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        dir
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn credentials_without_a_config_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_credentials(dir.path(), "docker.io").unwrap(), None);
    }

    #[test]
    fn credentials_in_auths_are_found_by_host() {
        let dir = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnBhOnNz"},
                "127.0.0.1:5000":{"auth":"YTpi"},
                "https://ghcr.io/v2/":{"username":"u","password":"p"},
                "quay.io":{"identitytoken":"tok"},"empty.example":{}}}"#,
        );
        let find = |registry| find_credentials(dir.path(), registry).unwrap();
        assert_eq!(find("docker.io"), password("hub", "pa:ss"));
        assert_eq!(find("127.0.0.1:5000"), password("a", "b"));
        assert_eq!(find("ghcr.io"), password("u", "p"));
        assert_eq!(find("quay.io"), Some(Credentials::IdentityToken { token: "tok".to_owned() }));
        assert_eq!(find("empty.example"), None);
        assert_eq!(find("127.0.0.1"), None);
    }

    #[test]
    fn credentials_in_a_broken_config_are_an_error() {
        for json in ["", "{\"auths\":3}", r#"{"auths":{"x.example":{"auth":"!"}}}"#] {
            let dir = config(json);
            assert!(
                matches!(
                    find_credentials(dir.path(), "x.example"),
                    Err(Error::DockerConfig { .. })
                ),
                "{json}"
            );
        }
    }

    #[test]
    fn helper_that_is_not_there_is_named() {
        let dir = config(r#"{"credHelpers":{"x.example":"surely-not-installed"}}"#);
        match find_credentials(dir.path(), "x.example") {
            Err(Error::CredentialHelper { helper, source: HelperFault::Run { .. }, .. }) => {
                assert_eq!(helper, "docker-credential-surely-not-installed");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(find_credentials(dir.path(), "y.example").unwrap(), None);
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let shown = format!(
            "{:?} {:?}",
            Credentials::Password { user: "u".to_owned(), password: "geheim".to_owned() },
            Credentials::IdentityToken { token: "geheim".to_owned() }
        );
        assert!(!shown.contains("geheim"), "{shown}");
    }

    #[test]
    fn base64_decodes_known_values() {
        for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zg", "f")]
        {
            assert_eq!(decode_base64(text).unwrap(), plain.as_bytes(), "{text}");
        }
        assert_eq!(decode_base64("Z-8="), None);
    }
}
