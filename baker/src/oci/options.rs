//! Options of fetches.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::{Credentials, HELPER_TIMEOUT};
use super::mirror_files::MirrorFiles;
use super::platform::Platform;
use super::progress::{Event, Progress};

/// The folders where Docker and Podman look for certificates of registries.
const CERTIFICATE_DIRS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

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
    /// `/etc/docker/certs.d` and `/etc/containers/certs.d`.
    pub certificate_dirs: Vec<PathBuf>,
    /// The files that configure mirrors.
    pub mirror_files: MirrorFiles,
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
            .field("mirror_files", &self.mirror_files)
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
            certificate_dirs: CERTIFICATE_DIRS.map(PathBuf::from).to_vec(),
            mirror_files: MirrorFiles::default(),
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
