//! Baking what packages declare in `[package.metadata.supermachine]`.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cargo_metadata::Package;
use supermachine_baker::lock::Lock;
use supermachine_baker::manifest::Metadata;
use supermachine_baker::{BakeError, Baked, Builds, Wishes};
use supermachine_snapshots::pack::Source;

use super::declared::folder;
use super::snapshots::{Packs, digest_of, file_name};
use crate::error::Error;
use crate::progress::Progress;

/// A snapshot that a package declares, baked.
#[derive(Debug)]
pub(crate) struct Made {
    /// The name that the package gives it.
    pub(crate) name: String,
    /// What it is in the cache of builds.
    pub(crate) baked: Baked,
}

/// What a package's manifest declares.
pub(crate) fn declared(package: &Package) -> Result<Metadata, Error> {
    Ok(Metadata::read(package.manifest_path.as_std_path()).map_err(BakeError::from)?)
}

/// Finds or bakes all that a package declares. Tags are pinned in the package's lock file as the
/// bakes go, so that one that fails does not lose the pins of those before it.
pub(crate) fn bake(package: &Package, wishes: &Wishes, quiet: bool) -> Result<Vec<Made>, Error> {
    let snapshots = declared(package)?.snapshots;
    let Some(first) = snapshots.first() else { return Ok(Vec::new()) };
    if wishes.left_out {
        return Err(Error::LeftOut { name: first.name.clone() });
    }
    let dir = folder(package);
    let mut lock = Lock::beside(&dir).map_err(BakeError::from)?.frozen(wishes.locked);
    let builds = Builds::open()?;
    let mut made = Vec::new();
    for snapshot in snapshots {
        let progress = Arc::new(Progress::new(quiet));
        let mut builder = snapshot.builder(&dir)?.observer(Arc::clone(&progress) as _);
        if wishes.offline {
            let mut options = supermachine_baker::oci::FetchOptions::default();
            options.offline = true;
            builder = builder.fetch_options(options);
        }
        let baked = builds.bake(&package.name, &builder, &mut lock);
        progress.finish(baked.is_ok());
        lock.save().map_err(BakeError::from)?;
        made.push(Made { name: snapshot.name, baked: baked? });
    }
    Ok(made)
}

/// The same, and each as one file in a folder of the package in `target_dir`. For another platform
/// than this one, or where the user has others, packs are taken that were baked elsewhere.
pub(crate) fn packs(
    package: &Package,
    target: &str,
    target_dir: &Path,
    wishes: &Wishes,
    quiet: bool,
) -> Result<Packs, Error> {
    if let Some(folder) = wishes.prebaked.as_ref().filter(|_| !wishes.left_out) {
        return prebaked(package, folder);
    }
    if !declared(package)?.snapshots.is_empty() && !is_platform_of(target, ARCH, OS) {
        let (target, host) = (target.to_owned(), format!("{ARCH} {OS}"));
        return Err(BakeError::CrossBuild { target, host }.into());
    }
    let mut packs = Packs::new();
    let dir = target_dir.join("supermachine").join(package.name.as_str());
    for made in bake(package, wishes, quiet)? {
        let path = dir.join(file_name(&made.name));
        if digest_of(&path) != Some(made.baked.digest) {
            let failed = |source| Error::Place { operation: "create", path: dir.clone(), source };
            fs::create_dir_all(&dir).map_err(failed)?;
            let (store, baked) = (Builds::open()?.store().clone(), &made.baked);
            store.export_snapshot(baked.digest, &baked.name, &path)?;
        }
        packs.insert(made.name, path);
    }
    Ok(packs)
}

/// The packs of all that a package declares, from a folder of them.
fn prebaked(package: &Package, folder: &Path) -> Result<Packs, Error> {
    let mut packs = Packs::new();
    for snapshot in declared(package)?.snapshots {
        let path = folder.join(file_name(&snapshot.name));
        let found = Source::open(&path).and_then(|source| source.find(None));
        found.map_err(supermachine::Error::from)?;
        packs.insert(snapshot.name, path);
    }
    Ok(packs)
}

/// Whether what the compiler calls a platform has this architecture and operating system.
fn is_platform_of(triple: &str, arch: &str, os: &str) -> bool {
    let os = if os == "macos" { "darwin" } else { os };
    triple.split('-').next() == Some(arch) && triple.split('-').any(|word| word == os)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_is_told_by_what_the_compiler_calls_it() {
        assert!(is_platform_of("x86_64-unknown-linux-gnu", "x86_64", "linux"));
        assert!(is_platform_of("aarch64-apple-darwin", "aarch64", "macos"));
        assert!(!is_platform_of("aarch64-unknown-linux-musl", "x86_64", "linux"));
        assert!(!is_platform_of("x86_64-apple-darwin", "x86_64", "linux"));
    }
}
