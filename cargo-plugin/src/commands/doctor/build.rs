//! What builds need beyond machines: pinned images, and credentials for registries.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use supermachine_baker::lock::{LOCK_FILE, Lock};

use super::Check;
use crate::format;

/// That the lock file of the package here can be read, if there is one.
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
            format!("take {LOCK_FILE} from version control, or remove it to pin anew"),
        ),
    })
}

/// What of Docker's configuration tells where credentials are.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    creds_store: Option<String>,
    cred_helpers: std::collections::BTreeMap<String, String>,
}

/// That Docker's configuration can be read, and the helpers that it names are there.
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
            return Some(Check::ok(NAME, format!("none ({shown} is not there)")));
        }
        Err(error) => {
            let remedy = "give this user the right to read it";
            return Some(Check::warning(NAME, format!("{shown} cannot be read: {error}"), remedy));
        }
    };
    let config: DockerConfig = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            let remedy = "mend or remove it; images are pulled anonymously meanwhile";
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
            format!("{shown} names {}, which cannot be found", missing.join(", ")),
            "install it, or take it out of the file",
        ),
    })
}

fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn lock_file_is_judged_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock(dir.path()).is_none());
        fs::write(dir.path().join(LOCK_FILE), "version = 1\n").unwrap();
        let whole = lock(dir.path()).unwrap();
        assert_eq!((whole.status, &*whole.found), (Status::Ok, "supermachine.lock pins 0 images"));
        fs::write(dir.path().join(LOCK_FILE), "<<<<<<< HEAD\n").unwrap();
        assert_eq!(lock(dir.path()).unwrap().status, Status::Warning);
    }

    #[test]
    fn helpers_that_are_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let judged = || credentials(Some(&path), |program| program == "docker-credential-there");
        assert_eq!(judged().unwrap().status, Status::Ok);
        fs::write(&path, r#"{"auths": {}, "credsStore": "there"}"#).unwrap();
        assert_eq!(judged().unwrap().status, Status::Ok);
        fs::write(&path, r#"{"credHelpers": {"a": "there", "b": "gone"}}"#).unwrap();
        let missing = judged().unwrap();
        assert_eq!(missing.status, Status::Warning);
        assert!(missing.found.ends_with("names docker-credential-gone, which cannot be found"));
        fs::write(&path, "{").unwrap();
        assert!(judged().unwrap().found.contains("is not JSON"));
        assert!(credentials(None, |_| true).is_none());
    }
}
