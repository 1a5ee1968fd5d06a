//! What a bake is asked for.
//!
//! Owns the description alone: nothing is fetched, read or started until [`bake`](crate::bake)
//! does it.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use supermachine::Vm;
use supermachine_formats::Digest;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_snapshots::pack::DEFAULT_LEVEL;

use crate::added_files::AddedFiles;
use crate::bake::Observer;
use crate::container::Overrides;
use crate::oci::{FetchOptions, ImageSource};
use crate::root_disk::RootDisk;
use crate::warmup::Warmup;
use crate::{BakeError, Ready};

/// Guest memory when none is asked for, in MiB.
const DEFAULT_MEMORY_MIB: u64 = 256;
/// How long readiness is waited for when nobody says.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Describes a bake; [`OciImageBuilder::bake`] does it.
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
    pub(crate) for_commands: bool,
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
            .field("for_commands", &self.for_commands)
            .field("level", &self.level)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

impl OciImageBuilder {
    /// Bakes the image that `source` means: a reference like those of Docker, `oci:FOLDER`,
    /// `oci-archive:FILE`, `docker-archive:FILE`, or the path of such a folder or file.
    ///
    /// # Errors
    /// The text has none of these forms.
    pub fn new(source: &str) -> Result<Self, BakeError> {
        Ok(Self::from_source(source.parse()?))
    }

    /// Bakes the image that is there.
    #[must_use]
    pub fn from_source(source: ImageSource) -> Self {
        Self {
            source,
            name: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            vcpus: 1,
            baseline: Baseline::V3,
            overrides: Overrides::default(),
            files: AddedFiles::default(),
            warmup: None,
            warmup_tag: None,
            root_disk: RootDisk::Mapped,
            ready: Ready::Auto,
            ready_timeout: DEFAULT_READY_TIMEOUT,
            for_commands: false,
            level: DEFAULT_LEVEL,
            fetch: FetchOptions::default(),
            observer: None,
        }
    }

    /// The snapshot's name; otherwise the last part of the image's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Guest memory in MiB; 256 otherwise.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Virtual processors; 1 otherwise.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u16) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// The processor features that the guest may use; those of x86-64-v3 otherwise. The snapshot
    /// goes on only where they are.
    #[must_use]
    pub fn cpu_baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// How the guest reaches its root file system.
    #[must_use]
    pub fn root_disk(mut self, root_disk: RootDisk) -> Self {
        self.root_disk = root_disk;
        self
    }

    /// When the machine is ready to be captured.
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// How long readiness is waited for; two minutes otherwise.
    #[must_use]
    pub fn ready_timeout(mut self, limit: Duration) -> Self {
        self.ready_timeout = limit;
        self
    }

    /// Bakes a snapshot to run commands in. An image without a command needs none, and an entrypoint
    /// that cannot start or exits with an error does not fail the bake.
    #[must_use]
    pub fn for_commands(mut self, for_commands: bool) -> Self {
        self.for_commands = for_commands;
        self
    }

    /// How hard to compress, as zstd counts: 1 is quick, 19 takes long; 9 otherwise. What has
    /// been stored at another level before is stored again.
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

    /// Adds the host's file or folder `from` to the image as `to`, an absolute path. Owner is
    /// root; a file's mode is 0755 if anybody may run it here, else 0644. Folders that are there
    /// already stay as they are, with what is in them.
    #[must_use]
    pub fn file(mut self, to: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.files.add(to.into(), from.into());
        self
    }

    /// Runs `warmup` in a machine once it is ready, and takes the snapshot after it: what it has
    /// loaded, compiled or connected is there when a machine starts. The machine has no other
    /// user, and forwards end with the closure.
    ///
    /// It cannot be seen from outside when the closure changes. Without
    /// [`with_warmup_tag`](Self::with_warmup_tag) a bake is done again whenever the program that
    /// the closure is part of (in a build script, the script itself) is another one.
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

    /// Runs commands as [`with_warmup`](Self::with_warmup) does; each must succeed.
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

    /// Names what the warm-up does: it is done again when this is another text, and only then.
    #[must_use]
    pub fn with_warmup_tag(mut self, tag: impl Into<String>) -> Self {
        self.warmup_tag = Some(tag.into());
        self
    }

    /// Bakes the image that the reference stood for when it had this digest, which is that of its
    /// manifest or index. Images in folders and archives, and those that are named by a digest,
    /// are what they are.
    #[must_use]
    pub fn pinned(mut self, digest: Digest) -> Self {
        if let ImageSource::Registry(reference) = &mut self.source
            && reference.digest().is_none()
        {
            *reference = reference.pinned(digest);
        }
        self
    }

    /// How the image is fetched: platform, credentials, network.
    #[must_use]
    pub fn fetch_options(mut self, options: FetchOptions) -> Self {
        self.fetch = options;
        self
    }

    /// Who is told how it goes.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }
}
