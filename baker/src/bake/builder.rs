//! The description of a bake. It does nothing until [`OciImageBuilder::bake`].

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use supermachine::{Ulimit, Vm};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::wire;
use supermachine_snapshots::pack::DEFAULT_LEVEL;

use super::added_files::AddedFiles;
use super::after_restore::AfterRestore;
use super::container::Overrides;
use super::init::Init;
use super::observer::Observer;
use super::ready::Ready;
use super::root_disk::RootDisk;
use super::settings::Tmpfs;
use super::warmup::Warmup;
use crate::error::BakeError;
use crate::oci::{FetchOptions, ImageSource};

/// The default guest memory, in MiB.
const DEFAULT_MEMORY_MIB: u64 = 256;
/// The default time limit for readiness.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(120);
/// The default time limit for each hook after a restore.
const DEFAULT_AFTER_RESTORE_TIMEOUT: Duration =
    Duration::from_millis(wire::AfterRestore::TIMEOUT_MS);

/// Describes a bake; [`OciImageBuilder::bake`] runs it.
///
/// ```no_run
/// use supermachine_baker::{OciImageBuilder, Ready, Store};
///
/// # fn main() -> Result<(), supermachine_baker::BakeError> {
/// let store = Store::open("target/snapshots")?;
/// OciImageBuilder::new("nginx:1.27")?
///     .name("web")
///     .memory_mib(128)
///     .ready(Ready::Tcp(80))
///     .bake(&store)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OciImageBuilder {
    pub(crate) source: ImageSource,
    pub(crate) name: Option<String>,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u16,
    pub(crate) baseline: Baseline,
    pub(crate) overrides: Overrides,
    pub(crate) files: AddedFiles,
    pub(crate) warmup: Option<Warmup>,
    pub(crate) warmup_tag: Option<String>,
    pub(crate) root_disk: RootDisk,
    pub(crate) ready: Ready,
    pub(crate) ready_timeout: Duration,
    pub(crate) after_restore: Option<AfterRestore>,
    pub(crate) after_restore_timeout: Duration,
    pub(crate) for_commands: bool,
    pub(crate) init: Init,
    pub(crate) level: i32,
    pub(crate) fetch: FetchOptions,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl fmt::Debug for OciImageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OciImageBuilder")
            .field("source", &self.source)
            .field("name", &self.name)
            .field("memory_mib", &self.memory_mib)
            .field("vcpus", &self.vcpus)
            .field("baseline", &self.baseline)
            .field("overrides", &self.overrides)
            .field("files", &self.files)
            .field("warmup", &self.warmup)
            .field("warmup_tag", &self.warmup_tag)
            .field("root_disk", &self.root_disk)
            .field("ready", &self.ready)
            .field("ready_timeout", &self.ready_timeout)
            .field("after_restore", &self.after_restore)
            .field("after_restore_timeout", &self.after_restore_timeout)
            .field("for_commands", &self.for_commands)
            .field("init", &self.init)
            .field("level", &self.level)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

impl OciImageBuilder {
    /// Describes a bake of the image `source`: a reference as in Docker, `oci:FOLDER`,
    /// `oci-archive:FILE`, `docker-archive:FILE`, or the path of such a folder or file.
    ///
    /// # Errors
    /// [`BakeError::Fetch`] if the text has none of these forms.
    pub fn new(source: &str) -> Result<Self, BakeError> {
        Ok(Self::from_source(source.parse()?))
    }

    /// Describes a bake of the image `source`.
    #[must_use]
    pub fn from_source(source: ImageSource) -> Self {
        Self {
            source,
            name: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            vcpus: 1,
            baseline: Baseline::default_of(supermachine_vmm::host::architecture()),
            overrides: Overrides::default(),
            files: AddedFiles::default(),
            warmup: None,
            warmup_tag: None,
            root_disk: RootDisk::Mapped,
            ready: Ready::Auto,
            ready_timeout: DEFAULT_READY_TIMEOUT,
            after_restore: None,
            after_restore_timeout: DEFAULT_AFTER_RESTORE_TIMEOUT,
            for_commands: false,
            init: Init::Agent,
            level: DEFAULT_LEVEL,
            fetch: FetchOptions::default(),
            observer: None,
        }
    }

    /// Sets the snapshot's name. Default: the last part of the image's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets guest memory in MiB. Default: 256.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets the number of vCPUs. Default: 1.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u16) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Sets the processor features that the guest may use. Default: x86-64-v3, on arm64 armv8.2-a. The
    /// snapshot runs only on hosts that have them.
    #[must_use]
    pub fn cpu_baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Sets how the guest accesses its root file system.
    #[must_use]
    pub fn root_disk(mut self, root_disk: RootDisk) -> Self {
        self.root_disk = root_disk;
        self
    }

    /// Sets when the machine is ready to be captured.
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// Limits the wait for readiness. Default: two minutes.
    #[must_use]
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready_timeout = limit;
        self
    }

    /// Sets what each machine does after its restore, before it answers the first request. The programs
    /// in the guest's folder `/etc/supermachine/after-restore.d` run before it, as root and in the order
    /// of their names, even without an action.
    #[must_use]
    pub fn after_restore(mut self, action: AfterRestore) -> Self {
        self.after_restore = Some(action);
        self
    }

    /// Limits the time of the action after a restore, and of each program in the folder. Default: 30
    /// seconds. A machine whose hook fails or takes longer refuses every request.
    #[must_use]
    pub fn after_restore_timeout(mut self, limit: Duration) -> Self {
        self.after_restore_timeout = limit;
        self
    }

    /// Bakes a snapshot to run commands in. An image without a command needs none, and an entrypoint
    /// that cannot start or exits with an error does not fail the bake.
    #[must_use]
    pub fn for_commands(mut self, for_commands: bool) -> Self {
        self.for_commands = for_commands;
        self
    }

    /// Sets which process is PID 1 to the image's programs. Default: the agent.
    #[must_use]
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Sets the zstd level, from 1 (fast) to 19 (small). Default: 9. A snapshot stored at another level is
    /// stored again.
    #[must_use]
    pub fn compression_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Replaces the image's entrypoint, and drops its command.
    #[must_use]
    pub fn entrypoint<I: IntoIterator<Item = S>, S: Into<String>>(mut self, words: I) -> Self {
        self.overrides.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the image's command.
    #[must_use]
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, words: I) -> Self {
        self.overrides.command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets an environment variable for the entrypoint and every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.overrides.env.push(format!("{name}={value}"));
        self
    }

    /// Replaces the image's user, as `user[:group]`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.overrides.user = Some(user.into());
        self
    }

    /// Replaces the image's working directory.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        self.overrides.working_dir = Some(dir.into());
        self
    }

    /// Makes the root file system read-only for the image's programs and all commands. What is mounted
    /// in it stays writable: `/dev`, `/dev/shm`, and each [`tmpfs`](Self::tmpfs). So that programs
    /// notice mistakes: root in the guest can make it writable again.
    ///
    /// ```no_run
    /// use supermachine_baker::OciImageBuilder;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let web = OciImageBuilder::new("nginx")?
    ///     .read_only_root(true)
    ///     .tmpfs("/run".parse()?)
    ///     .tmpfs("/var/cache/nginx:size=16m".parse()?)
    ///     .shm_size(64 << 20)
    ///     .ulimit("nofile=4096".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn read_only_root(mut self, read_only: bool) -> Self {
        self.overrides.settings.read_only = read_only;
        self
    }

    /// Mounts a file system in memory in the container. It covers the image's files at its path, and
    /// replaces an earlier one there.
    #[must_use]
    pub fn tmpfs(mut self, tmpfs: Tmpfs) -> Self {
        self.overrides.settings.tmpfs.push(tmpfs);
        self
    }

    /// Sets the size of `/dev/shm` in bytes; 0 is the default, a quarter of the memory.
    #[must_use]
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.overrides.settings.shm_size = Some(bytes).filter(|bytes| *bytes > 0);
        self
    }

    /// Limits a resource of each of the container's processes: the entrypoint's, and those of commands
    /// without a limit of their own. Replaces an earlier limit of the resource.
    #[must_use]
    pub fn ulimit(mut self, limit: Ulimit) -> Self {
        self.overrides.settings.ulimits.push(limit);
        self
    }

    /// Adds the host's file or directory `from` to the image as `to`, an absolute path. The owner is
    /// root; a file's mode is 0755 if any user may execute it here, else 0644. Existing directories keep
    /// their attributes and content.
    #[must_use]
    pub fn file(mut self, to: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.files.add(to.into(), from.into());
        self
    }

    /// Runs `warmup` in the machine once it is ready, and takes the snapshot afterwards: machines start
    /// with what it loaded, compiled or connected. The closure is the machine's only user, and forwards
    /// close when it returns.
    ///
    /// A change of the closure cannot be detected. Without [`with_warmup_tag`](Self::with_warmup_tag),
    /// the bake is repeated whenever the program that contains the closure (in a build script, the script
    /// itself) changes.
    ///
    /// ```no_run
    /// use supermachine_baker::OciImageBuilder;
    ///
    /// # fn main() -> Result<(), supermachine_baker::BakeError> {
    /// let python = OciImageBuilder::new("python:3.12-slim")?
    ///     .with_warmup(|vm| {
    ///         vm.exec(["python3", "-m", "compileall", "/opt/app"])?;
    ///         Ok(())
    ///     })
    ///     .with_warmup_tag("1");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_warmup<F>(mut self, warmup: F) -> Self
    where
        F: Fn(&Vm) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    {
        self.warmup = Some(Warmup::of(warmup));
        self
    }

    /// Runs commands as the warm-up, like [`with_warmup`](Self::with_warmup). Each must succeed.
    #[must_use]
    pub fn with_warmup_commands<C, S>(mut self, commands: C) -> Self
    where
        C: IntoIterator,
        C::Item: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let words = |command: C::Item| command.into_iter().map(Into::into).collect();
        self.warmup = Some(Warmup::of_commands(commands.into_iter().map(words).collect()));
        self
    }

    /// Tags the warm-up: it is repeated when the tag changes, and only then.
    #[must_use]
    pub fn with_warmup_tag(mut self, tag: impl Into<String>) -> Self {
        self.warmup_tag = Some(tag.into());
        self
    }

    /// Pins a tag to the digest of a manifest or index. Has no effect on images in folders and archives,
    /// or named by a digest.
    #[must_use]
    pub fn pinned(mut self, digest: Digest) -> Self {
        if let ImageSource::Registry(reference) = &mut self.source
            && reference.digest().is_none()
        {
            *reference = reference.pinned(digest);
        }
        self
    }

    /// Sets how the image is fetched: platform, credentials, network.
    #[must_use]
    pub fn fetch_options(mut self, options: FetchOptions) -> Self {
        self.fetch = options;
        self
    }

    /// Sets the receiver of events.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }
}
