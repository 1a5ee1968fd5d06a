//! The files that configure registries: mirrors, short names, and registries without TLS.

use std::ffi::OsString;
use std::path::PathBuf;

/// Docker's file.
const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Podman's file of the system.
const REGISTRIES_CONF: &str = "/etc/containers/registries.conf";

/// The files that configure registries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryFiles {
    /// `registries.conf`. The first that exists counts, and the folders `registries.conf.d` beside it and
    /// beside those before it; if none exists, all of these folders.
    pub registries: Vec<PathBuf>,
    /// The short names that Podman has stored for the user.
    pub short_names: Option<PathBuf>,
    /// Docker's `daemon.json`.
    pub docker: Option<PathBuf>,
}

impl Default for RegistryFiles {
    /// `$CONTAINERS_REGISTRIES_CONF`, the user's and the system's `registries.conf`, the user's
    /// `short-name-aliases.conf`, and `/etc/docker/daemon.json`.
    fn default() -> Self {
        Self::of(&|name| std::env::var_os(name))
    }
}

impl RegistryFiles {
    /// Configures nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { registries: Vec::new(), short_names: None, docker: None }
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let stated = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = |folder: &str| stated("HOME").map(|home| home.join(folder));
        let config = stated("XDG_CONFIG_HOME").or_else(|| home(".config"));
        let cache = stated("XDG_CACHE_HOME").or_else(|| home(".cache"));
        let registries = match stated("CONTAINERS_REGISTRIES_CONF") {
            Some(file) => vec![file],
            None => config
                .map(|config| config.join("containers/registries.conf"))
                .into_iter()
                .chain([REGISTRIES_CONF.into()])
                .collect(),
        };
        let short_names = cache.map(|cache| cache.join("containers/short-name-aliases.conf"));
        Self { registries, short_names, docker: Some(DAEMON_JSON.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_users_and_the_systems_unless_one_is_named() {
        let of = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            RegistryFiles::of(&move |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(*value))
            })
        };
        let named = of(&[("HOME", "/h"), ("CONTAINERS_REGISTRIES_CONF", "/c")]);
        assert_eq!(named.registries, [PathBuf::from("/c")]);
        let user = PathBuf::from("/h/.config/containers/registries.conf");
        let found = of(&[("HOME", "/h")]);
        assert_eq!(found.registries, [user, REGISTRIES_CONF.into()]);
        let short_names = "/h/.cache/containers/short-name-aliases.conf";
        assert_eq!(found.short_names, Some(short_names.into()));
        assert_eq!(of(&[]).short_names, None);
    }
}
