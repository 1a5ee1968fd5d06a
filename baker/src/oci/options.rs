//! Options of fetches.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{Credentials, HELPER_TIMEOUT};
use super::platform::Platform;
use super::progress::{Event, Progress};
use super::proxies::Proxies;
use super::registry_files::RegistryFiles;

/// The folders of the system where Docker and Podman look for certificates of registries.
const CERTIFICATE_DIRS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
/// Those in the user's configuration.
const USER_CERTIFICATE_DIRS: [&str; 2] = ["docker/certs.d", "containers/certs.d"];

/// Options of a fetch.
#[derive(Clone)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The platform to choose from those of an image.
    pub platform: Platform,
    /// Credentials to use instead of the user's stored ones.
    pub credentials: Option<Credentials>,
    /// The folder of Docker's configuration. If set, its `config.json` is the only source of stored
    /// credentials; otherwise the files of Docker and Podman are.
    pub docker_config: Option<PathBuf>,
    /// Whether to use a registry on another machine without TLS, or with an unverified certificate, if
    /// need be.
    pub insecure: bool,
    /// PEM files with certificate authorities to trust besides the system's.
    pub authorities: Vec<PathBuf>,
    /// Folders with a subfolder `HOST[:PORT]` for each registry with its own certificates. Default:
    /// `docker/certs.d` and `containers/certs.d` in `/etc` and in the user's configuration.
    pub certificate_dirs: Vec<PathBuf>,
    /// The files that configure registries: mirrors, short names, and registries without TLS.
    pub registry_files: RegistryFiles,
    /// The proxies to use. Default: those that the environment names.
    pub proxies: Proxies,
    /// Whether to use only the cache, and no network.
    pub offline: bool,
    /// The receiver of events.
    pub progress: Option<Arc<dyn Progress>>,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl fmt::Debug for FetchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchOptions")
            .field("platform", &self.platform)
            .field("credentials", &self.credentials)
            .field("docker_config", &self.docker_config)
            .field("insecure", &self.insecure)
            .field("authorities", &self.authorities)
            .field("certificate_dirs", &self.certificate_dirs)
            .field("registry_files", &self.registry_files)
            .field("proxies", &self.proxies)
            .field("offline", &self.offline)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            platform: Platform::default(),
            credentials: None,
            docker_config: None,
            insecure: false,
            authorities: Vec::new(),
            certificate_dirs: certificate_dirs(&|name| std::env::var_os(name)),
            registry_files: RegistryFiles::default(),
            proxies: Proxies::from_env(),
            offline: false,
            progress: None,
            timeouts: Timeouts::default(),
        }
    }
}

impl FetchOptions {
    pub(crate) fn report(&self, event: Event<'_>) {
        if let Some(progress) = &self.progress {
            progress.event(event);
        }
    }
}

/// Time limits for registries, token services and credential helpers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For connecting. Default: 15 s.
    pub connect: Duration,
    /// Between two received bytes. Default: 30 s.
    pub idle: Duration,
    /// The pause before the first retry. It doubles before each further one, up to 10 s. Default: 250 ms.
    pub pause: Duration,
    /// The longest pause that a registry may request with `Retry-After`. Default: 60 s.
    pub retry_after: Duration,
    /// For a credential helper to exit. Default: 30 s.
    pub helper: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            pause: Duration::from_millis(250),
            retry_after: Duration::from_secs(60),
            helper: HELPER_TIMEOUT,
        }
    }
}

/// The folders of certificates. Those of the user come last, so that their client certificate counts.
fn certificate_dirs(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let stated = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config =
        stated("XDG_CONFIG_HOME").or_else(|| stated("HOME").map(|home| home.join(".config")));
    let of_user =
        config.into_iter().flat_map(|config| USER_CERTIFICATE_DIRS.map(|dir| config.join(dir)));
    CERTIFICATE_DIRS.map(PathBuf::from).into_iter().chain(of_user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_the_systems_and_the_users() {
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/h"));
        let found = certificate_dirs(&home);
        assert_eq!(found.len(), 4);
        assert_eq!(found[3], PathBuf::from("/h/.config/containers/certs.d"));
        assert_eq!(certificate_dirs(&|_| None).len(), 2);
    }
}
