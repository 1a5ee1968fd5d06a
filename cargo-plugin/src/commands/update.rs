//! `cargo supermachine update`: updates the pins of tags.

use std::collections::BTreeSet;
use std::io::{self, Write};

use cargo_metadata::Package;
use supermachine_baker::BakeError;
use supermachine_baker::lock::Lock;
use supermachine_baker::oci::{self, BlobStore, FetchOptions, ImageSource};

use crate::error::{Error, PackageError};
use crate::globals::Globals;
use crate::package::{self, Selection};
use crate::{format, report};

/// Update the pins in supermachine.lock
///
/// Resolves each pinned tag, and each tag that Cargo.toml declares, with its registry, and writes the
/// digests to supermachine.lock. Bakes nothing: the next build does. A build pins the tags of its build
/// script.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Update only these images, as written in supermachine.lock
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Print the changes, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Resolves all tags, and writes the lock files only when all have answers.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let cache = supermachine::image::default_cache()?;
    let downloads = BlobStore::open(cache.join("downloads")).map_err(BakeError::from)?;
    let mut known = Vec::new();
    let mut locks = Vec::new();
    for package in args.selection.find()? {
        let mut lock = Lock::beside(&package::folder(&package)).map_err(BakeError::from)?;
        let images = images(&package, &lock)?;
        for image in images.iter().filter(|image| args.is_wanted(image)) {
            let line = resolve(image, &downloads, &mut lock)?;
            writeln!(io::stdout(), "{line}").map_err(|source| Error::Output { source })?;
        }
        known.extend(images);
        locks.push(lock);
    }
    let is_known = |wanted: &&String| known.iter().any(|image| is_meant(wanted, image));
    if let Some(image) = args.images.iter().find(|wanted| !is_known(wanted)) {
        return Err(PackageError::NotPinned { image: image.clone() }.into());
    }
    if known.is_empty() && !globals.quiet {
        report::note("no tags to update: none are pinned or declared");
    }
    if !args.dry_run {
        locks.iter_mut().try_for_each(Lock::save).map_err(BakeError::from)?;
    }
    Ok(0)
}

impl Args {
    fn is_wanted(&self, image: &str) -> bool {
        self.images.is_empty() || self.images.iter().any(|wanted| is_meant(wanted, image))
    }
}

/// The tags that a package pins or declares.
fn images(package: &Package, lock: &Lock) -> Result<BTreeSet<String>, Error> {
    let mut images: BTreeSet<_> = lock.images().map(|(name, _)| name.to_owned()).collect();
    for snapshot in package::declared(package)?.snapshots {
        if let ImageSource::Registry(reference) = snapshot.source(&package::folder(package))?
            && reference.digest().is_none()
        {
            images.insert(reference.to_string());
        }
    }
    Ok(images)
}

/// Pins a tag to its current digest, and returns a line about the change.
fn resolve(image: &str, downloads: &BlobStore, lock: &mut Lock) -> Result<String, Error> {
    let source: ImageSource = image.parse().map_err(BakeError::from)?;
    let digest =
        oci::resolve(&source, downloads, &FetchOptions::default()).map_err(BakeError::from)?;
    let short = format::short(digest);
    Ok(match lock.pin(image, digest) {
        Some(before) if before == digest => format!("{image} stays {short}"),
        Some(before) => format!("{image} moves from {} to {short}", format::short(before)),
        None => format!("{image} is pinned to {short}"),
    })
}

/// Whether a word names an image, in full or in a short form.
fn is_meant(wanted: &str, image: &str) -> bool {
    let reference = wanted.parse::<ImageSource>().map(|source| source.to_string());
    wanted == image || reference.is_ok_and(|reference| reference == image)
}
