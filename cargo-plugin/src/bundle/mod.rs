//! Bundles: a program with everything that it needs, for distribution.
//!
//! Owns the layout: an app bundle for macOS, a folder, or an archive of the folder. Snapshots are where
//! `supermachine::AssetPaths` looks for them. A bundle is made beside its path and then moved there, so
//! the path always has the old bundle or the new one.

mod contents;
mod files;
mod info;
mod settings;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::codesign::{self, Signing};
use crate::error::{Error, PackageError};
use crate::package::{FOLDER, file_name};
pub(crate) use contents::Contents;
use files::put;
pub(crate) use settings::{Settings, entitlements};

/// The layout of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// An app bundle for macOS
    App,
    /// A folder
    Dir,
    /// An archive of the folder
    Tar,
}

/// Makes a bundle in a folder, and returns its path.
pub(crate) fn make(
    contents: &Contents,
    format: Format,
    dir: &Path,
    signing: Option<&Signing>,
) -> Result<PathBuf, Error> {
    fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    let scratch = tempfile::Builder::new()
        .prefix(".bundle-")
        .tempdir_in(dir)
        .map_err(Error::file("create a folder in", dir))?;
    let name = &contents.settings.name;
    let (made, place) = match format {
        Format::App => {
            let bundle = format!("{name}.app");
            app(contents, &scratch.path().join(&bundle), signing)?;
            (scratch.path().join(&bundle), dir.join(bundle))
        }
        Format::Dir => {
            folder(contents, &scratch.path().join(name), signing)?;
            (scratch.path().join(name), dir.join(name))
        }
        Format::Tar => {
            folder(contents, &scratch.path().join(name), signing)?;
            let archive = format!("{name}-{}-{}.tar", contents.version, contents.target);
            let made = scratch.path().join(&archive);
            files::archive(&scratch.path().join(name), name, &made)?;
            (made, dir.join(archive))
        }
    };
    files::sync(&made)?;
    if place.is_dir() {
        if !is_bundle(contents, format, &place) {
            return Err(PackageError::NotABundle { path: place }.into());
        }
        replace(&made, &place)?;
    } else {
        fs::rename(&made, &place).map_err(Error::file("create", &place))?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::file("create", &place))?;
    Ok(place)
}

/// Whether a folder is an older bundle of this program, and not someone's work.
fn is_bundle(contents: &Contents, format: Format, place: &Path) -> bool {
    let is_package = ["Cargo.toml", ".git"].iter().any(|name| place.join(name).exists());
    let mark = match format {
        Format::App => Some(place.join("Contents/Info.plist")),
        Format::Dir => {
            let program = contents.programs.first().and_then(|program| program.file_name());
            program.map(|name| place.join(name))
        }
        Format::Tar => None,
    };
    !is_package && mark.is_some_and(|mark| mark.is_file())
}

/// Replaces a folder by another one.
fn replace(made: &Path, place: &Path) -> Result<(), Error> {
    if renameat_with(CWD, made, CWD, place, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // Not every file system can exchange two paths.
    let old = made.with_extension("old");
    fs::rename(place, &old).map_err(Error::file("replace", place))?;
    fs::rename(made, place).map_err(|source| {
        // The error of the first rename matters.
        let _ = fs::rename(&old, place);
        Error::file("replace", place)(source)
    })
}

/// `Contents/MacOS`, `Contents/Resources` and `Contents/Info.plist`.
fn app(contents: &Contents, place: &Path, signing: Option<&Signing>) -> Result<(), Error> {
    let inside = place.join("Contents");
    let (programs, resources) = (inside.join("MacOS"), inside.join("Resources"));
    for folder in [&programs, &resources] {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let settings = &contents.settings;
    for (name, pack) in &contents.packs {
        put(pack, &resources.join(file_name(name)))?;
    }
    for resource in settings.resources.iter().chain(&settings.icon) {
        put(resource, &resources.join(resource.file_name().unwrap_or_default()))?;
    }
    let copied = put_programs(contents, &programs)?;
    info::write(contents, &inside.join("Info.plist"))?;
    let Some(signing) = signing else { return Ok(()) };
    // Sign the contents first, because the bundle's signature seals them.
    for program in copied.iter().skip(1).filter(|path| codesign::is_for_macos(path)) {
        codesign::sign(program, signing)?;
    }
    Ok(codesign::sign(place, signing)?)
}

/// A folder with the program, and its snapshots in a folder beside it.
fn folder(contents: &Contents, place: &Path, signing: Option<&Signing>) -> Result<(), Error> {
    let snapshots = place.join(FOLDER);
    fs::create_dir_all(place).map_err(Error::file("create", place))?;
    for (name, pack) in &contents.packs {
        fs::create_dir_all(&snapshots).map_err(Error::file("create", &snapshots))?;
        put(pack, &snapshots.join(file_name(name)))?;
    }
    let copied = put_programs(contents, place)?;
    for resource in &contents.settings.resources {
        put(resource, &place.join(resource.file_name().unwrap_or_default()))?;
    }
    for program in copied.iter().filter(|path| codesign::is_for_macos(path)) {
        signing.map_or(Ok(()), |signing| codesign::sign(program, signing))?;
    }
    Ok(())
}

fn put_programs(contents: &Contents, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut copied = Vec::new();
    for program in &contents.programs {
        let place = dir.join(program.file_name().unwrap_or_default());
        put(program, &place)?;
        copied.push(place);
    }
    Ok(copied)
}
