//! Bakes the snapshots that packages declare in `[package.metadata.supermachine]`.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cargo_metadata::Package;
use supermachine_baker::lock::Lock;
use supermachine_baker::manifest::Metadata;
use supermachine_baker::{BakeError, Baked, BuildCache, BuildEnv, HostError};
use supermachine_snapshots::pack::Source;

use super::declared::folder;
use super::snapshots::{Packs, digest_of, file_name};
use crate::error::{Error, PackageError};
use crate::progress::Progress;

/// A baked snapshot of a package.
#[derive(Debug)]
pub(crate) struct BakedSnapshot {
    /// The name that the package gives it.
    pub(crate) name: String,
    /// The result in the build cache.
    pub(crate) baked: Baked,
}

/// The metadata table of a package's manifest.
pub(crate) fn declared(package: &Package) -> Result<Metadata, Error> {
    Ok(Metadata::read(package.manifest_path.as_std_path()).map_err(BakeError::from)?)
}

/// Finds or bakes all snapshots that a package declares. Saves the lock file after each bake, so that a
/// failed bake does not lose earlier pins.
pub(crate) fn bake(
    package: &Package,
    env: &BuildEnv,
    quiet: bool,
) -> Result<Vec<BakedSnapshot>, Error> {
    let snapshots = declared(package)?.snapshots;
    let Some(first) = snapshots.first() else { return Ok(Vec::new()) };
    if env.left_out {
        return Err(PackageError::BakeSkipped { name: first.name.clone() }.into());
    }
    let dir = folder(package);
    let mut lock = Lock::beside(&dir).map_err(BakeError::from)?.frozen(env.locked);
    let builds = BuildCache::open()?;
    let mut made = Vec::new();
    for snapshot in snapshots {
        let progress = Arc::new(Progress::new(quiet));
        let mut builder = snapshot.builder(&dir)?.observer(Arc::clone(&progress) as _);
        if env.offline {
            let mut options = supermachine_baker::oci::FetchOptions::default();
            options.offline = true;
            builder = builder.fetch_options(options);
        }
        let baked = builds.bake(&package.name, &builder, &mut lock);
        progress.finish(baked.is_ok());
        lock.save().map_err(BakeError::from)?;
        made.push(BakedSnapshot { name: snapshot.name, baked: baked? });
    }
    Ok(made)
}

/// Finds or bakes all snapshots, and writes each as a file to the package's folder in `target_dir`. Uses
/// packs that were baked elsewhere if the environment names their folder.
pub(crate) fn packs(
    package: &Package,
    target: &str,
    target_dir: &Path,
    env: &BuildEnv,
    quiet: bool,
) -> Result<Packs, Error> {
    if let Some(folder) = env.prebaked.as_ref().filter(|_| !env.left_out) {
        return prebaked(package, folder);
    }
    if !declared(package)?.snapshots.is_empty() && !is_platform_of(target, ARCH, OS) {
        let (target, host) = (target.to_owned(), format!("{ARCH} {OS}"));
        return Err(BakeError::Host(HostError::CrossBuild { target, host }).into());
    }
    let mut packs = Packs::new();
    let dir = target_dir.join("supermachine").join(package.name.as_str());
    for made in bake(package, env, quiet)? {
        let path = dir.join(file_name(&made.name));
        if digest_of(&path) != Some(made.baked.digest) {
            let failed = |source| Error::File { operation: "create", path: dir.clone(), source };
            fs::create_dir_all(&dir).map_err(failed)?;
            let (store, baked) = (BuildCache::open()?.store().clone(), &made.baked);
            store.export_snapshot(baked.digest, &baked.name, &path)?;
        }
        packs.insert(made.name, path);
    }
    Ok(packs)
}

/// The packs of all declared snapshots, from a folder of packs that were baked elsewhere.
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

/// Whether a target triple has this architecture and operating system.
fn is_platform_of(triple: &str, arch: &str, os: &str) -> bool {
    let os = if os == "macos" { "darwin" } else { os };
    triple.split('-').next() == Some(arch) && triple.split('-').any(|word| word == os)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_triple_names_the_platform() {
        assert!(is_platform_of("x86_64-unknown-linux-gnu", "x86_64", "linux"));
        assert!(is_platform_of("aarch64-apple-darwin", "aarch64", "macos"));
        assert!(!is_platform_of("aarch64-unknown-linux-musl", "x86_64", "linux"));
        assert!(!is_platform_of("x86_64-apple-darwin", "x86_64", "linux"));
    }
}
