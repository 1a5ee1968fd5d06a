//! The cache of builds: the bakes of all packages.
//!
//! It is a store in the user's cache, so that `cargo clean` loses no bake and packages share them.
//! The key of a bake is a digest of all its inputs: the image's digest, which the lock file pins, and
//! the description. A lookup needs neither network nor hypervisor. Processes that need the same bake
//! wait for each other.

use std::path::PathBuf;

use supermachine::host;
use supermachine::image::default_cache;
use supermachine_formats::Digest;
use supermachine_formats::snapshot::FORMAT_VERSION;
use supermachine_formats::snapshot::arch::Baseline;

use super::lock::Lock;
use crate::bake::{Baked, Key, OciImageBuilder, RECIPE, ROOT_DISK_RECIPE};
use crate::boot;
use crate::error::{BakeError, HostError, ProjectError};
use crate::oci::{self, BlobStore, ImageSource};
use crate::store::Store;

/// Its folder in the user's cache.
const FOLDER: &str = "builds";

/// The cache of builds.
///
/// ```no_run
/// use std::path::Path;
/// use supermachine_baker::lock::Lock;
/// use supermachine_baker::{BuildCache, OciImageBuilder};
///
/// # fn main() -> Result<(), supermachine_baker::BakeError> {
/// let mut lock = Lock::beside(Path::new("app"))?;
/// let builder = OciImageBuilder::new("redis:7")?.name("cache");
/// let baked = BuildCache::open()?.bake("app", &builder, &mut lock)?;
/// lock.save()?;
/// println!("{} is {}", baked.name, baked.digest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BuildCache {
    store: Store,
}

impl BuildCache {
    /// Opens the cache of builds: `builds` in the user's cache.
    ///
    /// # Errors
    /// There is no cache folder, or it cannot be created.
    pub fn open() -> Result<Self, BakeError> {
        let cache = default_cache().map_err(BakeError::machine("opening of the store"))?;
        Self::open_in(cache)
    }

    /// Opens the cache of builds in another cache folder.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open_in(cache: impl Into<PathBuf>) -> Result<Self, BakeError> {
        let cache = cache.into();
        Ok(Self { store: Store::open_with_cache(cache.join(FOLDER), cache)? })
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Finds the bake in the cache, or runs it. A tag stands for the digest that `lock` pins; a tag
    /// without a pin is pinned now. The snapshot's name in the store is `PACKAGE.NAME`.
    ///
    /// # Errors
    /// Any [`BakeError`]: [`HostError::NoHypervisor`] if the bake is not cached and this host cannot run
    /// it, [`ProjectError::NotLocked`] if a tag has no pin and the lock file is [frozen](Lock::frozen).
    pub fn bake(
        &self,
        package: &str,
        builder: &OciImageBuilder,
        lock: &mut Lock,
    ) -> Result<Baked, BakeError> {
        let name = format!("{}.{}", prefix(package), builder.snapshot_name()?);
        self.store.check_name(&name)?;
        let (image, builder) = self.pinned(builder, lock)?;
        let key_now = || key(&builder, &name, image);
        let key = key_now()?;
        let _hold = self.store.layout().hold()?;
        let _turn = self.store.lock(key)?;
        if let Some(digest) = self.store.made_snapshot(key) {
            if self.store.digest(&name).ok() != Some(digest) {
                self.store.set_name(&name, digest)?;
            }
            return Ok(Baked { name, digest, image, was_cached: true });
        }
        let baked = self.bake_here(&builder, &name)?;
        // An input that changed during the bake may be part of it, so that the key does not match.
        if baked.image == image && key_now()? == key {
            self.store.remember(key, baked.digest)?;
        }
        Ok(baked)
    }

    /// The image's digest, and the bake pinned to it.
    fn pinned(
        &self,
        builder: &OciImageBuilder,
        lock: &mut Lock,
    ) -> Result<(Digest, OciImageBuilder), BakeError> {
        let resolve = || -> Result<Digest, BakeError> {
            let downloads = BlobStore::open(self.store.cache().join("downloads"))?;
            Ok(oci::resolve(&builder.source, &downloads, &builder.fetch)?)
        };
        let ImageSource::Registry(reference) = &builder.source else {
            return Ok((resolve()?, builder.clone()));
        };
        if let Some(digest) = reference.digest() {
            return Ok((digest, builder.clone()));
        }
        let text = reference.to_string();
        let digest = match lock.digest(&text) {
            Some(digest) => digest,
            None if lock.is_frozen() => {
                let path = lock.path().to_owned();
                return Err(BakeError::Project(ProjectError::NotLocked { path, reference: text }));
            }
            None => {
                let digest = resolve()?;
                lock.pin(&text, digest);
                digest
            }
        };
        Ok((digest, builder.clone().pinned(digest)))
    }

    /// Runs a bake whose inputs are not cached. A host that cannot start machines downloads nothing, but
    /// still finds the snapshot if the store has it under another key.
    fn bake_here(&self, builder: &OciImageBuilder, name: &str) -> Result<Baked, BakeError> {
        let Some(problem) = host_problem() else {
            return builder.bake_as(&self.store, name.to_owned(), &|| Ok(()));
        };
        let mut offline = builder.clone();
        offline.fetch.offline = true;
        let refuse = || host_problem().map_or(Ok(()), Err);
        match offline.bake_as(&self.store, name.to_owned(), &refuse) {
            Err(BakeError::Fetch { source: oci::Error::NotCached { .. } }) => Err(problem),
            other => other,
        }
    }
}

/// A package's name, in the letters that a snapshot's name may have.
fn prefix(package: &str) -> String {
    let mut prefix = String::new();
    for letter in package.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => prefix.push(letter),
            '_' | '-' if !prefix.is_empty() => prefix.push(letter),
            _ => prefix += &format!("u{:x}_", u32::from(letter)),
        }
    }
    prefix
}

/// Why this host cannot start machines.
fn host_problem() -> Option<BakeError> {
    match host::probe() {
        Ok(speed) if speed.is_usable() => None,
        Ok(_) => {
            let problem = "its hypervisor interprets guest kernels instead of running them";
            Some(BakeError::Host(HostError::NoHypervisor { problem, source: None }))
        }
        Err(source) => {
            let problem = "it has no hypervisor that can be used";
            Some(BakeError::Host(HostError::NoHypervisor { problem, source: Some(source) }))
        }
    }
}

/// The digest of all inputs of a bake of `image` that is stored as `name`.
pub(super) fn key(
    builder: &OciImageBuilder,
    name: &str,
    image: Digest,
) -> Result<Digest, BakeError> {
    let assets = supermachine_kernel::identity()
        .map_err(|source| BakeError::Host(HostError::Assets { source }))?;
    let mut key = Key::new();
    key.add(b"build");
    // Another version of the library may bake differently.
    key.add(env!("CARGO_PKG_VERSION").as_bytes());
    for recipe in [RECIPE, boot::RECIPE, ROOT_DISK_RECIPE] {
        key.add(&recipe.to_le_bytes());
    }
    key.add(&FORMAT_VERSION.to_le_bytes());
    key.add(&assets);
    key.add(&image.0);
    key.add(builder.fetch.platform.to_string().as_bytes());
    key.add(&builder.memory_mib.to_le_bytes());
    key.add(&builder.vcpus.to_le_bytes());
    key.add(&[builder.baseline as u8, builder.root_disk as u8, builder.init as u8]);
    if builder.baseline == Baseline::Host {
        host::processor().iter().for_each(|word| key.add(&word.to_le_bytes()));
    }
    key.add(&builder.level.to_le_bytes());
    key.add(builder.ready.to_string().as_bytes());
    let overrides = &builder.overrides;
    key.list_or_none(overrides.entrypoint.as_deref());
    key.list_or_none(overrides.command.as_deref());
    key.list(&overrides.env);
    key.list_or_none(overrides.user.as_ref().map(std::slice::from_ref));
    key.list_or_none(overrides.working_dir.as_ref().map(std::slice::from_ref));
    overrides.settings.add_to(&mut key);
    key.add(builder.files.digest()?.map_or(Vec::new(), |digest| digest.0.to_vec()).as_slice());
    builder.add_after_restore(&mut key);
    if let Some(warmup) = &builder.warmup {
        key.add(&warmup.identity(name, builder.warmup_tag.as_deref())?.0);
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bake::{AfterRestore, Ready};

    fn redis() -> OciImageBuilder {
        OciImageBuilder::new("redis:7").unwrap()
    }

    fn key_of(builder: &OciImageBuilder) -> Digest {
        key(builder, "app.web", Digest::of(b"image")).unwrap()
    }

    #[test]
    fn key_depends_on_all_inputs_of_the_bake() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let variants = [
            redis(),
            redis().memory_mib(128),
            redis().vcpus(2),
            redis().ready(Ready::Tcp(6379)),
            redis().env("A", "1"),
            redis().env("A", "2"),
            redis().env("A", "1").env("B", "2"),
            redis().entrypoint(["a", "b"]),
            redis().entrypoint(["a b"]),
            redis().entrypoint(Vec::<String>::new()),
            redis().command(["a", "b"]),
            redis().user("a"),
            redis().working_dir("a"),
            redis().read_only_root(true),
            redis().tmpfs("/run".parse().unwrap()),
            redis().tmpfs("/run:exec".parse().unwrap()),
            redis().shm_size(1 << 20),
            redis().ulimit("nofile=64".parse().unwrap()),
            redis().ulimit("nofile=64:65".parse().unwrap()),
            redis().compression_level(1),
            redis().cpu_baseline(Baseline::V2),
            redis().root_disk(crate::RootDisk::Block),
            redis().init(crate::Init::Image),
            redis().after_restore(AfterRestore::Restart),
            redis().after_restore(AfterRestore::Signal(1)),
            redis().after_restore_timeout(std::time::Duration::from_secs(1)),
            redis().file("/a", &file),
            redis().file("/b", &file),
            redis().with_warmup(|_| Ok(())).with_warmup_tag("1"),
            redis().with_warmup(|_| Ok(())).with_warmup_tag("2"),
        ];
        let mut keys: Vec<_> = variants.iter().map(|variant| key_of(variant).0).collect();
        keys.push(key(&redis(), "app.web", Digest::of(b"another image")).unwrap().0);
        std::fs::write(&file, "2").unwrap();
        keys.push(key_of(&redis().file("/a", &file)).0);
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn package_names_become_prefixes_of_snapshot_names() {
        for (package, expected) in [("my-app_2", "my-app_2"), ("_x", "u5f_x"), ("é", "ue9_")] {
            assert_eq!(prefix(package), expected);
            assert!(supermachine_snapshots::pack::is_name(&format!("{expected}.web")));
        }
    }

    #[test]
    fn key_does_not_depend_on_names_and_the_limit_of_readiness() {
        let same = redis().name("a").ready_timeout(std::time::Duration::from_secs(1));
        assert_eq!(key_of(&same), key_of(&redis()));
    }
}
