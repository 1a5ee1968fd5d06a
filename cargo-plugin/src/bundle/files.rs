//! Copying into bundles, and packing them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// For `map_err`.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Place { operation, path, source }
}

/// Copies a file, or a folder with all that is in it, to where nothing is yet. What it is itself a
/// link to is copied; links within it stay links.
pub(super) fn put(from: &Path, to: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(Error::PutTwice { path: from.to_path_buf() });
    }
    copy_all(&fs::canonicalize(from).map_err(failed("read", from))?, to)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Error> {
    let kind = fs::symlink_metadata(from).map_err(failed("read", from))?;
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(failed("read", from))?;
        return std::os::unix::fs::symlink(target, to).map_err(failed("create", to));
    }
    if !kind.is_dir() {
        return fs::copy(from, to).map(drop).map_err(failed("copy", from));
    }
    fs::create_dir(to).map_err(failed("create", to))?;
    for name in names(from)? {
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Packs a folder: the same content gives the same bytes.
pub(super) fn archive(folder: &Path, name: &str, place: &Path) -> Result<(), Error> {
    let file = File::create(place).map_err(failed("create", place))?;
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    append(&mut archive, folder, Path::new(name))?;
    let finished = archive.into_inner().and_then(|writer| writer.into_inner().map_err(Into::into));
    finished.map(drop).map_err(failed("write", place))
}

/// Appends a file, or a folder with its content in the order of names.
fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    from: &Path,
    name: &Path,
) -> Result<(), Error> {
    archive.append_path_with_name(from, name).map_err(failed("pack", from))?;
    let kind = fs::symlink_metadata(from).map_err(failed("read", from))?;
    if kind.is_dir() {
        for entry in names(from)? {
            append(archive, &from.join(&entry), &name.join(&entry))?;
        }
    }
    Ok(())
}

/// Has everything reach the disk.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    let kind = fs::symlink_metadata(path).map_err(failed("read", path))?;
    if kind.is_symlink() {
        return Ok(());
    }
    if kind.is_dir() {
        for name in names(path)? {
            sync(&path.join(name))?;
        }
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("write", path))
}

fn names(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().into())).collect::<Result<_, _>>()
    });
    let mut names: Vec<PathBuf> = entries.map_err(failed("read", dir))?;
    names.sort();
    Ok(names)
}
