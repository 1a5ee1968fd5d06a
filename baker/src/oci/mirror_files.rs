//! The files that configure mirrors.

use std::ffi::OsString;
use std::path::PathBuf;

/// Docker's file.
const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Podman's file of the system.
const REGISTRIES_CONF: &str = "/etc/containers/registries.conf";

/// The files that configure mirrors.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorFiles {
    /// `registries.conf`. A missing file is skipped; the first that exists counts.
    pub registries: Vec<PathBuf>,
    /// Docker's `daemon.json`.
    pub docker: Option<PathBuf>,
}

impl Default for MirrorFiles {
    /// `$CONTAINERS_REGISTRIES_CONF`, the user's and the system's `registries.conf`, and
    /// `/etc/docker/daemon.json`.
    fn default() -> Self {
        Self::of(&|name| std::env::var_os(name))
    }
}

impl MirrorFiles {
    /// Configures no mirrors.
    #[must_use]
    pub fn none() -> Self {
        Self { registries: Vec::new(), docker: None }
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let stated = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let docker = Some(DAEMON_JSON.into());
        if let Some(file) = stated("CONTAINERS_REGISTRIES_CONF") {
            return Self { registries: vec![file], docker };
        }
        let config = stated("XDG_CONFIG_HOME")
            .or_else(|| stated("HOME").map(|home| home.join(".config")))
            .map(|config| config.join("containers/registries.conf"));
        let registries = config.into_iter().chain([REGISTRIES_CONF.into()]).collect();
        Self { registries, docker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_users_and_the_systems_unless_one_is_named() {
        let of = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            let found = MirrorFiles::of(&move |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(*value))
            });
            found.registries
        };
        let named = of(&[("HOME", "/h"), ("CONTAINERS_REGISTRIES_CONF", "/c")]);
        assert_eq!(named, [PathBuf::from("/c")]);
        let user = PathBuf::from("/h/.config/containers/registries.conf");
        assert_eq!(of(&[("HOME", "/h")]), [user, REGISTRIES_CONF.into()]);
    }
}
