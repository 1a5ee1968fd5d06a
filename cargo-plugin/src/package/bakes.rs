//! Baking what packages declare in `[package.metadata.supermachine]`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cargo_metadata::Package;
use supermachine_baker::lock::Lock;
use supermachine_baker::manifest::Metadata;
use supermachine_baker::{BakeError, Baked, Builds};

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
pub(crate) fn bake(package: &Package, offline: bool, quiet: bool) -> Result<Vec<Made>, Error> {
    let snapshots = declared(package)?.snapshots;
    if snapshots.is_empty() {
        return Ok(Vec::new());
    }
    let dir = folder(package);
    let mut lock = Lock::beside(&dir).map_err(BakeError::from)?;
    let builds = Builds::open()?;
    let mut made = Vec::new();
    for snapshot in snapshots {
        let progress = Arc::new(Progress::new(quiet));
        let mut builder = snapshot.builder(&dir)?.observer(Arc::clone(&progress) as _);
        if offline {
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

/// The same, and each as one file in a folder of the package in `target`.
pub(crate) fn packs(package: &Package, target: &Path, quiet: bool) -> Result<Packs, Error> {
    let mut packs = Packs::new();
    let dir = target.join("supermachine").join(package.name.as_str());
    for made in bake(package, false, quiet)? {
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
