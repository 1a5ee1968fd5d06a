//! Images: snapshots on disk from which machines start.
//!
//! A snapshot is in a pack: an OCI image-layout folder, or the same as a tar file. Its *mapped
//! form* is made and checked once, in the user's cache; from then on, a start only maps files.
//! Until then, machines start from the pack and page on demand, where the system allows it.

mod fork;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use supermachine_formats::Digest;
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot;

use crate::RestoreMode;
use supermachine_snapshots::mapped::{ExpansionMarker, FormDir, Mapped, PackChunks};
use supermachine_snapshots::pack::{Pack, Source};
use supermachine_vmm::{Chunks, Origin, can_page_on_demand};

use crate::assets::SnapshotLocation;
use crate::error::{HostError, InvalidInput};
use crate::{AssetPaths, Error, VmConfig, paths};

/// A snapshot that machines can be started from. Cheap to clone.
///
/// ```no_run
/// use supermachine::{Image, VmConfig};
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let image = Image::from_snapshot("redis.tar")?;
/// let vm = image.start(&VmConfig::new().with_memory_mib(128))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Image {
    inner: Arc<Inner>,
    attached: Arc<Attached>,
}

/// The opened content of a snapshot, from which a machine starts.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its mapped form.
    Mapped(Mapped),
    /// Its pack, whose chunks arrive on demand.
    Pack(Arc<Pack>),
}

/// State that a higher module keeps for as long as an image and its clones live.
type Attached = OnceLock<Box<dyn Any + Send + Sync>>;

struct Inner {
    digest: Digest,
    snapshot: Arc<Snapshot>,
    source: Source,
    form: FormDir,
    mapped: OnceLock<Mapped>,
    pack: OnceLock<Arc<Pack>>,
    /// Whether a thread makes the mapped form.
    is_expanding: AtomicBool,
    /// Set once a machine has started without the mapped form; `None` where the cache is read-only.
    begun: OnceLock<Option<ExpansionMarker>>,
    /// Whether this is the image of a running machine: the last overlay holds what it has written.
    is_fork: bool,
}

impl fmt::Debug for Inner {
    /// Leaves out the state, which is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("digest", &self.digest)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Opens the snapshot in a pack: a file, or a folder with one snapshot.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    pub fn from_snapshot(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::find(path.as_ref(), None)
    }

    /// Opens a snapshot of a store by its name.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    pub fn from_store(store: impl AsRef<Path>, name: &str) -> Result<Self, Error> {
        Self::find(store.as_ref(), Some(name))
    }

    /// Opens a snapshot that ships with the program, by its name.
    ///
    /// # Errors
    /// Those of [`AssetPaths::image`].
    pub fn from_assets(assets: &AssetPaths, name: &str) -> Result<Self, Error> {
        match assets.find(name)? {
            SnapshotLocation::Pack(path) => Self::from_snapshot(path),
            SnapshotLocation::Store(path) => Self::from_store(path, name),
        }
    }

    fn find(path: &Path, name: Option<&str>) -> Result<Self, Error> {
        let source = Source::open(path)?;
        let digest = source.find(name)?;
        let cache = paths::cache_dir().ok_or(Error::Host { source: HostError::NoCacheDir })?;
        Self::open(source, digest, &cache)
    }

    /// Opens a snapshot by the digest of its manifest, with its mapped form in `cache`.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    #[doc(hidden)]
    pub fn open(source: Source, digest: Digest, cache: &Path) -> Result<Self, Error> {
        let form = FormDir::new(cache, digest);
        let (mapped, pack) = (OnceLock::new(), OnceLock::new());
        let snapshot = match form.existing() {
            Some((snapshot, found)) => {
                mapped.get_or_init(|| found);
                Arc::new(snapshot)
            }
            None => {
                let found = Arc::new(Pack::open(&source, digest)?);
                Arc::new(pack.get_or_init(|| found).snapshot.clone())
            }
        };
        let is_expanding = AtomicBool::new(false);
        let begun = OnceLock::new();
        let is_fork = false;
        let inner =
            Inner { digest, snapshot, source, form, mapped, pack, is_expanding, begun, is_fork };
        Ok(Self { inner: Arc::new(inner), attached: Arc::default() })
    }

    /// The same snapshot without the attached state, for what that state holds itself.
    pub(crate) fn detached(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), attached: Arc::default() }
    }

    /// The state that is attached to this image and its clones, made at the first call. There is
    /// one, so `T` is the same at each call.
    pub(crate) fn attached<T: Any + Default + Send + Sync>(&self) -> &T {
        let state = self.attached.get_or_init(|| Box::new(T::default()));
        #[expect(clippy::expect_used, reason = "the one caller attaches one type")]
        state.downcast_ref().expect("another type was attached")
    }

    /// Checks that the snapshot has the machine that the configuration requires.
    pub(crate) fn require(&self, config: &VmConfig) -> Result<(), Error> {
        let machine = &self.snapshot().machine;
        let found = machine.memory_size >> 20;
        if let Some(wanted) = config.memory_mib().filter(|wanted| *wanted != found) {
            return Err(Error::Invalid {
                source: InvalidInput::Mismatch { what: "MiB of memory", wanted, found },
            });
        }
        if let Some(wanted) = config.vcpus().filter(|wanted| *wanted != machine.vcpus) {
            let (wanted, found) = (wanted.into(), machine.vcpus.into());
            return Err(Error::Invalid {
                source: InvalidInput::Mismatch { what: "vCPUs", wanted, found },
            });
        }
        Ok(())
    }

    /// Another snapshot from the same source, with its mapped form in the same cache.
    pub(crate) fn sibling(&self, digest: Digest) -> Result<Self, Error> {
        Self::open(self.inner.source.clone(), digest, self.inner.form.cache())
    }

    /// The state that machines begin with.
    #[must_use]
    #[doc(hidden)]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.inner.snapshot
    }

    /// The digest of the snapshot's manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Where the snapshot comes from.
    #[must_use]
    #[doc(hidden)]
    pub fn source(&self) -> &Source {
        &self.inner.source
    }

    /// The snapshot in its portable form.
    ///
    /// # Errors
    /// It is missing or damaged.
    #[doc(hidden)]
    pub fn pack(&self) -> Result<&Arc<Pack>, Error> {
        self.inner.pack()
    }

    /// The snapshot's mapped form, made if it is missing.
    ///
    /// # Errors
    /// The snapshot is missing or damaged, or the cache cannot be written.
    #[doc(hidden)]
    pub fn mapped(&self) -> Result<&Mapped, Error> {
        self.inner.mapped()
    }

    /// The initial memory and disks of a machine, and how it gets them.
    ///
    /// # Errors
    /// The snapshot is missing or damaged, or the cache cannot be written.
    pub(crate) fn origin(&self, starts_on_demand: bool) -> Result<(Origin, RestoreMode), Error> {
        let (content, mode) = self.content(starts_on_demand)?;
        let origin = match content {
            Content::Mapped(Mapped { memory, disks }) => Origin::Files { memory, disks },
            Content::Pack(pack) => {
                let inner = Arc::clone(&self.inner);
                let then = Box::new(move || inner.expand_in_background(|| ()));
                Origin::Chunks(Box::new(PackChunks::new(&pack.index, &pack.blobs, then)?))
            }
        };
        Ok((origin, mode))
    }

    /// The same as opened files, for a machine in another process.
    ///
    /// # Errors
    /// Those of [`Image::origin`].
    pub(crate) fn content(&self, starts_on_demand: bool) -> Result<(Content, RestoreMode), Error> {
        let mode = match self.inner.found() {
            Some(_) => RestoreMode::Mapped,
            None if starts_on_demand
                && self.can_start_on_demand()
                && !self.inner.is_made_late() =>
            {
                return Ok((Content::Pack(Arc::clone(self.pack()?)), RestoreMode::OnDemand));
            }
            None => RestoreMode::Expanded,
        };
        Ok((Content::Mapped(self.mapped()?.clone()), mode))
    }

    /// Makes the mapped form for later starts, once the other end of `signal` is closed.
    pub(crate) fn expand_after(&self, mut signal: UnixStream) {
        self.inner.expand_in_background(move || {
            // Nothing is ever sent, and an error ends the wait as well.
            let _ = signal.read(&mut [0]);
        });
    }

    /// A disk that serves read requests needs a file.
    fn can_start_on_demand(&self) -> bool {
        let has_block = self.snapshot().slots.iter().any(|slot| matches!(slot, Slot::Block(..)));
        !has_block && can_page_on_demand()
    }

    /// The snapshot's chunks, from which one machine starts; `None` if this process may not page on
    /// demand.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    #[doc(hidden)]
    pub fn chunks_on_demand(&self) -> Result<Option<Box<dyn Chunks>>, Error> {
        if !self.can_start_on_demand() {
            return Ok(None);
        }
        let pack = self.pack()?;
        Ok(Some(Box::new(PackChunks::new(&pack.index, &pack.blobs, Box::new(|| ()))?)))
    }
}

impl AssetPaths {
    /// Opens a snapshot by its name.
    ///
    /// # Errors
    /// [`Error::Snapshot`] if no folder has it or it is damaged, [`Error::Invalid`] for an invalid
    /// name.
    pub fn image(&self, name: &str) -> Result<Image, Error> {
        Image::from_assets(self, name)
    }
}

impl Inner {
    fn pack(&self) -> Result<&Arc<Pack>, Error> {
        if let Some(pack) = self.pack.get() {
            return Ok(pack);
        }
        let pack = Arc::new(Pack::open(&self.source, self.digest)?);
        Ok(self.pack.get_or_init(|| pack))
    }

    /// The mapped form, if it exists.
    fn found(&self) -> Option<&Mapped> {
        if let Some(mapped) = self.mapped.get() {
            return Some(mapped);
        }
        let (_, mapped) = self.form.existing()?;
        Some(self.mapped.get_or_init(|| mapped))
    }

    fn mapped(&self) -> Result<&Mapped, Error> {
        if let Some(mapped) = self.found() {
            return Ok(mapped);
        }
        let mapped = self.form.make(self.pack()?)?;
        Ok(self.mapped.get_or_init(|| mapped))
    }

    /// Makes the mapped form now if earlier processes exited before they had made it in the
    /// background, as later ones might do the same. Where it cannot be made, machines start without
    /// it.
    fn is_made_late(&self) -> bool {
        let mut is_made = false;
        self.begun.get_or_init(|| {
            let begun = self.form.begin().ok()?;
            if begun.is_given_up {
                is_made = self.mapped().is_ok();
                if !is_made {
                    self.form.forget_begun();
                }
            }
            Some(begun)
        });
        is_made
    }

    /// Makes the mapped form for later starts, after `wait`. A start that needs it reports a
    /// failure.
    fn expand_in_background(self: &Arc<Self>, wait: impl FnOnce() + Send + 'static) {
        let inner = Arc::clone(self);
        let thread = thread::Builder::new().name("sm-expand".into());
        let _ = thread.spawn(move || {
            wait();
            // One thread is enough; the locks of the cache order processes.
            if !inner.is_expanding.swap(true, Ordering::Relaxed) {
                let _ = inner.mapped();
            }
        });
    }
}

/// The default folder of mapped forms.
///
/// # Errors
/// Neither `HOME` nor `XDG_CACHE_HOME` is set to an absolute path.
pub fn default_cache() -> Result<PathBuf, Error> {
    paths::cache_dir().ok_or(Error::Host { source: HostError::NoCacheDir })
}
