//! Copies files into bundles, and archives bundles.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, PackageError};

/// Copies a file or a folder to a path that does not exist. Follows a link at `from`, but copies links
/// inside a folder as links.
pub(super) fn put(from: &Path, to: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(PackageError::DuplicateFile { path: from.to_path_buf() }.into());
    }
    copy_all(&fs::canonicalize(from).map_err(Error::file("read", from))?, to)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Error> {
    let kind = fs::symlink_metadata(from).map_err(Error::file("read", from))?;
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(Error::file("read", from))?;
        return std::os::unix::fs::symlink(target, to).map_err(Error::file("create", to));
    }
    if !kind.is_dir() {
        let blame = |error: io::Error| Error::file("copy", blamed(from, to, &error))(error);
        return fs::copy(from, to).map(drop).map_err(blame);
    }
    fs::create_dir(to).map_err(Error::file("create", to))?;
    for name in names(from)? {
        copy_all(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Archives a folder. The same content gives the same bytes.
pub(super) fn archive(folder: &Path, name: &str, place: &Path) -> Result<(), Error> {
    let file = File::create(place).map_err(Error::file("create", place))?;
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    append(&mut archive, folder, Path::new(name), place)?;
    let finished = archive.into_inner().and_then(|writer| writer.into_inner().map_err(Into::into));
    finished.map(drop).map_err(Error::file("write", place))
}

/// Appends a file, or a folder with its content in the order of names.
fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    from: &Path,
    name: &Path,
    place: &Path,
) -> Result<(), Error> {
    archive
        .append_path_with_name(from, name)
        .map_err(|error| Error::file("pack", blamed(from, place, &error))(error))?;
    let kind = fs::symlink_metadata(from).map_err(Error::file("read", from))?;
    if kind.is_dir() {
        for entry in names(from)? {
            append(archive, &from.join(&entry), &name.join(&entry), place)?;
        }
    }
    Ok(())
}

/// The path that a failed copy is about: its target if there is no room.
fn blamed<'p>(from: &'p Path, to: &'p Path, error: &io::Error) -> &'p Path {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => to,
        _ => from,
    }
}

/// Flushes everything to the disk.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    let kind = fs::symlink_metadata(path).map_err(Error::file("read", path))?;
    if kind.is_symlink() {
        return Ok(());
    }
    if kind.is_dir() {
        for name in names(path)? {
            sync(&path.join(name))?;
        }
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::file("write", path))
}

fn names(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().into())).collect::<Result<_, _>>()
    });
    let mut names: Vec<PathBuf> = entries.map_err(Error::file("read", dir))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use supermachine_test_support::small_disk::with_small_disk;

    #[test]
    fn full_disk_is_named_by_the_copy_and_not_its_source() {
        let test = "bundle::files::tests::full_disk_is_named_by_the_copy_and_not_its_source";
        with_small_disk(64 << 10, test, |disk| {
            let from = tempfile::tempdir().unwrap();
            fs::write(from.path().join("large"), vec![1; 1 << 20]).unwrap();
            let to = disk.dir().join("to");
            let error = put(from.path(), &to).unwrap_err();
            assert_eq!(error.to_string(), format!("disk full: {}/large", to.display()));
            fs::remove_dir_all(&to).unwrap();
            let error = archive(from.path(), "name", &to).unwrap_err();
            assert_eq!(error.to_string(), format!("disk full: {}", to.display()));
        });
    }
}
