//! The cache of builds: what builds of any package baked before.
//!
//! It is a store in the user's cache, so that `cargo clean` does not lose a bake, and builds of
//! different packages share theirs. A bake is found by a digest of all that goes into it: what
//! the image's name stands for, which the lock file pins, and everything that the description
//! says. For that neither network nor hypervisor is needed. Whoever wants the same bake at the
//! same time waits for it.

use std::path::PathBuf;

use supermachine::host;
use supermachine::image::default_cache;
use supermachine_formats::Digest;
use supermachine_formats::snapshot::FORMAT_VERSION;
use supermachine_formats::snapshot::arch::Baseline;

use crate::bake::{Baked, RECIPE};
use crate::key::Key;
use crate::lock::Lock;
use crate::oci::{self, BlobStore, ImageSource};
use crate::{BakeError, OciImageBuilder, Store, boot, root_disk};

/// The folder in the user's cache.
const FOLDER: &str = "builds";

/// The cache of builds.
///
/// ```no_run
/// use std::path::Path;
/// use supermachine_baker::lock::Lock;
/// use supermachine_baker::{Builds, OciImageBuilder};
///
/// # fn main() -> Result<(), supermachine_baker::BakeError> {
/// let mut lock = Lock::beside(Path::new("app"))?;
/// let builder = OciImageBuilder::new("redis:7")?.name("cache");
/// let baked = Builds::open()?.bake("app", &builder, &mut lock)?;
/// lock.save()?;
/// println!("{} is {}", baked.name, baked.digest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Builds {
    store: Store,
}

impl Builds {
    /// Opens the cache of builds: `builds` in the user's cache.
    ///
    /// # Errors
    /// There is no cache folder, or it cannot be made.
    pub fn open() -> Result<Self, BakeError> {
        let cache = default_cache().map_err(BakeError::machine("opening of the store"))?;
        Self::open_in(cache)
    }

    /// Opens the cache of builds in another cache folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open_in(cache: impl Into<PathBuf>) -> Result<Self, BakeError> {
        let cache = cache.into();
        Ok(Self { store: Store::open_with_cache(cache.join(FOLDER), cache)? })
    }

    /// The store that it is.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Finds what the bake gave before, or bakes. An image that is named by a tag is the one that
    /// `lock` pins; if it pins none, it is pinned now. In the store the snapshot is called
    /// `PACKAGE.NAME`.
    ///
    /// # Errors
    /// Any [`BakeError`]: [`BakeError::NoHypervisor`] if it must be baked and this host cannot,
    /// [`BakeError::NotLocked`] if a tag is not pinned and the lock file is [frozen](Lock::frozen).
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
        // What changed while it was baked may be in it: then it is not what the key stands for.
        if baked.image == image && key_now()? == key {
            self.store.remember(key, baked.digest)?;
        }
        Ok(baked)
    }

    /// What the image's name stands for, and the bake of exactly that.
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
                return Err(BakeError::NotLocked { path, reference: text });
            }
            None => {
                let digest = resolve()?;
                lock.pin(&text, digest);
                digest
            }
        };
        Ok((digest, builder.clone().pinned(digest)))
    }

    /// Bakes what is not known by its inputs. Where no machine can be started nothing is
    /// downloaded in vain, but what has been baked under other circumstances is found.
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

/// A package's name as a snapshot's can begin: cargo allows for more letters.
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

/// Why no machine can be started here.
fn host_problem() -> Option<BakeError> {
    match host::probe() {
        Ok(speed) if speed.is_usable() => None,
        Ok(_) => {
            let problem = "its hypervisor interprets guest kernels instead of running them";
            Some(BakeError::NoHypervisor { problem, source: None })
        }
        Err(source) => {
            let problem = "it has no hypervisor that can be used";
            Some(BakeError::NoHypervisor { problem, source: Some(source) })
        }
    }
}

/// The digest of everything that goes into a bake of this image, which is kept by this name.
pub(crate) fn key(
    builder: &OciImageBuilder,
    name: &str,
    image: Digest,
) -> Result<Digest, BakeError> {
    let assets = supermachine_kernel::identity().map_err(|source| BakeError::Assets { source })?;
    let mut key = Key::new();
    key.add(b"build");
    // Another library may do otherwise what it is asked for.
    key.add(env!("CARGO_PKG_VERSION").as_bytes());
    for recipe in [RECIPE, boot::RECIPE, root_disk::RECIPE] {
        key.add(&recipe.to_le_bytes());
    }
    key.add(&FORMAT_VERSION.to_le_bytes());
    key.add(&assets);
    key.add(&image.0);
    key.add(builder.fetch.platform.to_string().as_bytes());
    key.add(&builder.memory_mib.to_le_bytes());
    key.add(&builder.vcpus.to_le_bytes());
    key.add(&[builder.baseline as u8, builder.root_disk as u8]);
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
    key.add(builder.files.digest()?.map_or(Vec::new(), |digest| digest.0.to_vec()).as_slice());
    if let Some(warmup) = &builder.warmup {
        key.add(&warmup.identity(name, builder.warmup_tag.as_deref())?.0);
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ready;

    fn redis() -> OciImageBuilder {
        OciImageBuilder::new("redis:7").unwrap()
    }

    fn key_of(builder: &OciImageBuilder) -> Digest {
        key(builder, "app.web", Digest::of(b"image")).unwrap()
    }

    #[test]
    fn key_depends_on_all_that_goes_into_the_bake() {
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
            redis().compression_level(1),
            redis().cpu_baseline(Baseline::V2),
            redis().root_disk(crate::RootDisk::Block),
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
    fn packages_of_any_name_begin_names_of_snapshots() {
        for (package, expected) in [("my-app_2", "my-app_2"), ("_x", "u5f_x"), ("é", "ue9_")] {
            assert_eq!(prefix(package), expected);
            assert!(supermachine_snapshots::pack::is_name(&format!("{expected}.web")));
        }
    }

    #[test]
    fn key_does_not_depend_on_names_and_patience() {
        let same = redis().name("a").ready_timeout(std::time::Duration::from_secs(1));
        assert_eq!(key_of(&same), key_of(&redis()));
    }
}
