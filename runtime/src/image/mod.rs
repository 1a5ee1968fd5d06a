//! Snapshots on disk, ready to start machines from.
//!
//! A snapshot lies in a pack: an OCI image-layout folder, or one file that is the same as a
//! tar. From it an image's *mapped form* is made once, in the user's cache, and checked while
//! it is made; after that a start only maps files. Until then machines start from the pack
//! itself, if the system allows: their pages come when they are touched.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use supermachine_formats::Digest;
use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot;

use supermachine_snapshots::mapped::{Begun, Mapped, PackChunks, Place};
use supermachine_snapshots::pack::{Pack, Source};
use supermachine_vmm::{Chunks, Origin, Way, can_page_on_demand};

use crate::pool::Pools;
use crate::{AssetPaths, Error, Pool, PoolBuilder, PooledVm, Vm, VmConfig, paths};

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
    /// Gone with the last image that shares them; what they start has none.
    pools: Arc<Pools>,
}

#[derive(Debug)]
struct Inner {
    digest: Digest,
    snapshot: Arc<Snapshot>,
    source: Source,
    place: Place,
    mapped: OnceLock<Mapped>,
    pack: OnceLock<Arc<Pack>>,
    /// Whether a thread has been started that makes the mapped form.
    is_expanding: AtomicBool,
    /// Once a machine was started without the mapped form; none where the cache cannot be written.
    begun: OnceLock<Option<Begun>>,
}

impl Image {
    /// Opens the snapshot in a pack: a file, or a folder that holds only this one.
    ///
    /// # Errors
    /// There is no such snapshot, or it is damaged.
    pub fn from_snapshot(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::find(path.as_ref(), None)
    }

    /// Opens a snapshot of a store by its name.
    ///
    /// # Errors
    /// There is no such snapshot, or it is damaged.
    pub fn from_store(store: impl AsRef<Path>, name: &str) -> Result<Self, Error> {
        Self::find(store.as_ref(), Some(name))
    }

    /// Opens a snapshot that ships with the program, by its name.
    ///
    /// # Errors
    /// Those of [`AssetPaths::image`].
    pub fn from_assets(assets: &AssetPaths, name: &str) -> Result<Self, Error> {
        assets.image(name)
    }

    fn find(path: &Path, name: Option<&str>) -> Result<Self, Error> {
        let source = Source::open(path)?;
        let digest = source.find(name)?;
        let cache = paths::cache_dir().ok_or(Error::NoCacheDir)?;
        Self::open(source, digest, &cache)
    }

    /// Opens a snapshot by the digest of its manifest, with its mapped form in `cache`.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    pub fn open(source: Source, digest: Digest, cache: &Path) -> Result<Self, Error> {
        let place = Place::new(cache, digest);
        let (mapped, pack) = (OnceLock::new(), OnceLock::new());
        let snapshot = match place.existing() {
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
        let inner = Inner { digest, snapshot, source, place, mapped, pack, is_expanding, begun };
        Ok(Self { inner: Arc::new(inner), pools: Arc::default() })
    }

    /// Opens a snapshot of which only the mapped form is needed.
    pub(crate) fn of_mapped(digest: Digest, cache: &Path) -> Result<Self, Error> {
        Self::open(Source::absent(), digest, cache)
    }

    /// Where its mapped form is, or will be.
    pub(crate) fn cache(&self) -> &Path {
        self.inner.place.cache()
    }

    /// The same snapshot for what lives in a pool, and must not keep the pool alive.
    pub(crate) fn without_pools(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), pools: Arc::default() }
    }

    /// Another snapshot in the same place, with its mapped form in the same cache.
    pub(crate) fn sibling(&self, digest: Digest) -> Result<Self, Error> {
        Self::open(self.inner.source.clone(), digest, self.cache())
    }

    /// Starts a machine.
    ///
    /// # Errors
    /// Those of [`Vm::start`].
    pub fn start(&self, config: &VmConfig) -> Result<Vm, Error> {
        Vm::start(self, config)
    }

    /// Takes a warm machine from a pool that belongs to this image and its clones, and ends with
    /// the last of them. The machine goes back when it is dropped.
    ///
    /// # Errors
    /// Those of [`Pool::acquire`](crate::Pool::acquire).
    pub fn acquire(&self) -> Result<PooledVm, Error> {
        self.acquire_with(&VmConfig::new())
    }

    /// The same with a configuration; each has a pool of its own. With
    /// [`VmConfig::with_pool_warm`] that many machines are kept warm from then on.
    ///
    /// # Errors
    /// Those of [`Pool::acquire`](crate::Pool::acquire) and
    /// [`PoolBuilder::build`](crate::PoolBuilder::build).
    pub fn acquire_with(&self, config: &VmConfig) -> Result<PooledVm, Error> {
        self.pool_with(config)?.acquire()
    }

    /// The pool that belongs to this image for a configuration.
    pub(crate) fn pool_with(&self, config: &VmConfig) -> Result<Pool, Error> {
        self.pools.of(self, config)
    }

    /// Begins to describe a pool of machines.
    pub fn pool(&self) -> PoolBuilder {
        PoolBuilder::new(self)
    }

    /// The state that machines begin with.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.inner.snapshot
    }

    /// The digest of the snapshot's manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// Where the snapshot lies.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.inner.source
    }

    /// The snapshot in its portable form.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn pack(&self) -> Result<&Arc<Pack>, Error> {
        self.inner.pack()
    }

    /// The snapshot's mapped form, made if it is not there.
    ///
    /// # Errors
    /// The snapshot is missing or damaged, or the cache cannot be written.
    pub fn mapped(&self) -> Result<&Mapped, Error> {
        self.inner.mapped()
    }

    /// What a machine's memory and disks begin as, and which way that is.
    ///
    /// # Errors
    /// The snapshot is missing or damaged, or the cache cannot be written.
    pub(crate) fn origin(&self, config: &VmConfig) -> Result<(Origin, Way), Error> {
        let way = match self.inner.found() {
            Some(_) => Way::Mapped,
            None if config.starts_on_demand()
                && self.can_start_on_demand()
                && !self.inner.is_made_late() =>
            {
                return Ok((self.chunks()?, Way::OnDemand));
            }
            None => Way::Expanded,
        };
        let Mapped { memory, disks } = self.mapped()?.clone();
        Ok((Origin::Files { memory, disks }, way))
    }

    /// Disks that are read by requests need files.
    fn can_start_on_demand(&self) -> bool {
        let has_block = self.snapshot().slots.iter().any(|slot| matches!(slot, Slot::Block(..)));
        !has_block && can_page_on_demand()
    }

    /// The snapshot's chunks, to start one machine from; none if this process may not do that.
    ///
    /// # Errors
    /// The snapshot is missing or damaged.
    pub fn chunks_on_demand(&self) -> Result<Option<Box<dyn Chunks>>, Error> {
        if !self.can_start_on_demand() {
            return Ok(None);
        }
        Ok(Some(Box::new(PackChunks::new(self.pack()?, Box::new(|| ()))?)))
    }

    fn chunks(&self) -> Result<Origin, Error> {
        let inner = Arc::clone(&self.inner);
        let then = Box::new(move || inner.expand_in_background());
        Ok(Origin::Chunks(Box::new(PackChunks::new(self.inner.pack()?, then)?)))
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

    /// The mapped form, if it is there.
    fn found(&self) -> Option<&Mapped> {
        if let Some(mapped) = self.mapped.get() {
            return Some(mapped);
        }
        let (_, mapped) = self.place.existing()?;
        Some(self.mapped.get_or_init(|| mapped))
    }

    fn mapped(&self) -> Result<&Mapped, Error> {
        if let Some(mapped) = self.found() {
            return Ok(mapped);
        }
        let mapped = self.place.make(self.pack()?)?;
        Ok(self.mapped.get_or_init(|| mapped))
    }

    /// Makes the mapped form now, if the processes that had begun to make it in the background
    /// ended before it was done: those that follow might do so again and again. Where it cannot
    /// be made, machines start without it.
    fn is_made_late(&self) -> bool {
        let mut is_made = false;
        self.begun.get_or_init(|| {
            let begun = self.place.begin().ok()?;
            if begun.is_given_up {
                is_made = self.mapped().is_ok();
                if !is_made {
                    self.place.forget_begun();
                }
            }
            Some(begun)
        });
        is_made
    }

    /// Makes the mapped form for the starts that follow. A failure is told to who needs it.
    fn expand_in_background(self: &Arc<Self>) {
        // Only one thread is started; the locks of the cache do the rest.
        if self.is_expanding.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::clone(self);
        let thread = thread::Builder::new().name("sm-expand".into());
        let _ = thread.spawn(move || {
            let _ = inner.mapped();
        });
    }
}

/// The folder that mapped forms are kept in by default.
///
/// # Errors
/// Neither `HOME` nor `XDG_CACHE_HOME` is set to an absolute path.
pub fn default_cache() -> Result<PathBuf, Error> {
    paths::cache_dir().ok_or(Error::NoCacheDir)
}
