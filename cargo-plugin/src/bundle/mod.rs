//! Bundles: a program with all that it needs, to be given to others.
//!
//! Owns how a bundle is laid out: an app bundle for macOS, a folder, or an archive of the folder.
//! Snapshots lie where `supermachine::AssetPaths` looks for them. A bundle is made beside its place
//! and then takes it, so that what is there is the old one or the new one.

mod files;
mod info;
mod settings;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::codesign::{self, Signing};
use crate::error::Error;
use crate::package::{FOLDER, Packs, file_name};
use files::{failed, put};
pub(crate) use settings::{Settings, entitlements};

/// How a bundle is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// An app bundle for macOS
    App,
    /// A folder
    Dir,
    /// An archive of the folder
    Tar,
}

/// What a bundle is made of.
#[derive(Debug)]
pub(crate) struct Contents {
    /// What it is called, and for whom.
    pub(crate) settings: Settings,
    /// The package's version.
    pub(crate) version: String,
    /// What the compiler calls the platform that it is for.
    pub(crate) target: String,
    /// The program, and others beside it.
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) packs: Packs,
}

/// Makes a bundle in a folder, and returns its place.
pub(crate) fn make(
    contents: &Contents,
    format: Format,
    dir: &Path,
    signing: Option<&Signing>,
) -> Result<PathBuf, Error> {
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let scratch = tempfile::Builder::new()
        .prefix(".bundle-")
        .tempdir_in(dir)
        .map_err(failed("create a folder in", dir))?;
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
            return Err(Error::NoBundle { path: place });
        }
        replace(&made, &place)?;
    } else {
        fs::rename(&made, &place).map_err(failed("create", &place))?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("create", &place))?;
    Ok(place)
}

/// Whether a folder is what was made for this program before, rather than somebody's work.
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

/// Puts a folder in the place of another one, which is in its place then, or in one beside it.
fn replace(made: &Path, place: &Path) -> Result<(), Error> {
    if renameat_with(CWD, made, CWD, place, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // Not every file system can do it at once.
    let old = made.with_extension("old");
    fs::rename(place, &old).map_err(failed("replace", place))?;
    fs::rename(made, place).map_err(|source| {
        // Why the new one cannot be there is what is to be told.
        let _ = fs::rename(&old, place);
        failed("replace", place)(source)
    })
}

/// `Contents/MacOS`, `Contents/Resources` and `Contents/Info.plist`.
fn app(contents: &Contents, place: &Path, signing: Option<&Signing>) -> Result<(), Error> {
    let inside = place.join("Contents");
    let (programs, resources) = (inside.join("MacOS"), inside.join("Resources"));
    for folder in [&programs, &resources] {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
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
    // What is inside is signed first: the bundle's signature seals it.
    for program in copied.iter().skip(1).filter(|path| codesign::is_for_macos(path)) {
        codesign::sign(program, signing)?;
    }
    Ok(codesign::sign(place, signing)?)
}

/// The program with its snapshots in a folder beside it.
fn folder(contents: &Contents, place: &Path, signing: Option<&Signing>) -> Result<(), Error> {
    let snapshots = place.join(FOLDER);
    fs::create_dir_all(place).map_err(failed("create", place))?;
    for (name, pack) in &contents.packs {
        fs::create_dir_all(&snapshots).map_err(failed("create", &snapshots))?;
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
