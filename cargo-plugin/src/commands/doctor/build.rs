//! Checks for builds: pinned images, and credentials for registries.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use supermachine_baker::lock::{LOCK_FILE, Lock};

use super::check::Check;
use crate::format;

/// Checks the lock file of the package in this folder, if there is one.
pub(super) fn lock(dir: &Path) -> Option<Check> {
    const NAME: &str = "lock file";
    if !dir.join(LOCK_FILE).exists() {
        return None;
    }
    Some(match Lock::beside(dir) {
        Ok(lock) => {
            let pinned = format::count(lock.images().count(), "image");
            Check::ok(NAME, format!("{LOCK_FILE} pins {pinned}"))
        }
        Err(error) => Check::warning(
            NAME,
            with_source(&error),
            format!("restore {LOCK_FILE} from version control, or delete it to pin again"),
        ),
    })
}

/// The part of Docker's configuration that names credentials.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    creds_store: Option<String>,
    cred_helpers: std::collections::BTreeMap<String, String>,
}

/// Checks Docker's configuration, and that its credential helpers are installed.
pub(super) fn credentials(
    config: Option<&Path>,
    is_program: impl Fn(&str) -> bool,
) -> Option<Check> {
    const NAME: &str = "credentials";
    let path = config?;
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(Check::ok(NAME, format!("none ({shown} does not exist)")));
        }
        Err(error) => {
            let remedy = "make it readable for this user";
            return Some(Check::warning(NAME, format!("cannot read {shown}: {error}"), remedy));
        }
    };
    let config: DockerConfig = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            let remedy = "fix or delete it; until then, images are pulled anonymously";
            return Some(Check::warning(NAME, format!("{shown} is not JSON: {error}"), remedy));
        }
    };
    let named = config.cred_helpers.values().chain(&config.creds_store);
    let programs = named.map(|name| format!("docker-credential-{name}"));
    let missing: Vec<_> = programs.filter(|program| !is_program(program)).collect();
    Some(match missing.as_slice() {
        [] => Check::ok(NAME, shown.to_string()),
        _ => Check::warning(
            NAME,
            format!("{shown} names {}, which is not installed", missing.join(", ")),
            "install it, or remove it from the file",
        ),
    })
}

fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn lock_file_is_checked_if_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock(dir.path()).is_none());
        fs::write(dir.path().join(LOCK_FILE), "version = 1\n").unwrap();
        let whole = lock(dir.path()).unwrap();
        assert_eq!((whole.status, &*whole.found), (Status::Ok, "supermachine.lock pins 0 images"));
        fs::write(dir.path().join(LOCK_FILE), "<<<<<<< HEAD\n").unwrap();
        assert_eq!(lock(dir.path()).unwrap().status, Status::Warning);
    }

    #[test]
    fn missing_helpers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let check = || credentials(Some(&path), |program| program == "docker-credential-there");
        assert_eq!(check().unwrap().status, Status::Ok);
        fs::write(&path, r#"{"auths": {}, "credsStore": "there"}"#).unwrap();
        assert_eq!(check().unwrap().status, Status::Ok);
        fs::write(&path, r#"{"credHelpers": {"a": "there", "b": "gone"}}"#).unwrap();
        let missing = check().unwrap();
        assert_eq!(missing.status, Status::Warning);
        assert!(missing.found.ends_with("names docker-credential-gone, which is not installed"));
        fs::write(&path, "{").unwrap();
        assert!(check().unwrap().found.contains("is not JSON"));
        assert!(credentials(None, |_| true).is_none());
    }
}
