//! Copies files and folders between the host and a machine, as a tar archive.
//!
//! An archive from a machine is untrusted. It is [unpacked](unpack) into a new folder beside the
//! target, which no entry can leave, and then moved into place. Existing files are replaced, never
//! opened for writing, so a symbolic link on either side cannot redirect a write.

mod owner;
mod unpack;

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;

use supermachine::Vm;
use tar::{Builder, Header};

pub(crate) use self::owner::{Owner, OwnerName};
use self::unpack::Unpacked;
use crate::error::{Error, UsageError};
use crate::report;

/// Error numbers of the guest.
const ENOENT: u16 = 2;
const ENOTDIR: u16 = 20;
const EISDIR: u16 = 21;

/// Copies a file or a folder of the host to a path of the machine.
pub(crate) fn into_machine(
    vm: &Vm,
    source: &Path,
    target: &Path,
    owner: Owner,
) -> Result<(), Error> {
    let found = fs::metadata(source).map_err(Error::file("stat", source))?;
    let name = name_of(source)?;
    let there = Kind::of(vm, target)?;
    let target = match there {
        Kind::Directory => target.join(name),
        Kind::Missing if ends_with_slash(target) => target.join(name),
        Kind::File if found.is_dir() || ends_with_slash(target) => {
            return Err(UsageError::NotAFolder { path: target.to_owned() }.into());
        }
        _ => target.to_owned(),
    };
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(UsageError::NotAFolder { path: target }.into());
    };
    check_readable(source, &found)?;
    let is_new = matches!(Kind::of(vm, &target)?, Kind::Missing);
    let (reader, writer) = io::pipe().map_err(Error::file("pipe", source))?;
    let (packed, copied) = thread::scope(|scope| {
        let packed = scope.spawn(|| pack(writer, Path::new(name), source, owner));
        let copied = vm.copy_in(folder, reader);
        (packed.join().unwrap_or(Ok(())), copied)
    });
    let done = match (packed, copied) {
        (packed, Ok(())) => packed,
        // The source failed, so the machine got half an archive.
        (Err(error), Err(_)) if !is_broken_pipe(&error) => Err(error),
        (_, Err(error)) => Err(error.into()),
    };
    if done.is_err() && is_new {
        remove(vm, &target);
    }
    done
}

/// Fails if a file of the source cannot be read, before anything is copied.
fn check_readable(path: &Path, found: &Metadata) -> Result<(), Error> {
    if found.is_file() {
        return File::open(path).map(drop).map_err(Error::file("open", path));
    }
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::file("read", path))? {
            let path = entry.map_err(Error::file("read", path))?.path();
            let found = fs::symlink_metadata(&path).map_err(Error::file("stat", &path))?;
            check_readable(&path, &found)?;
        }
    }
    Ok(())
}

/// Removes what a failed copy left in the machine. An image without `rm` keeps it.
fn remove(vm: &Vm, target: &Path) {
    let argv = [OsStr::new("rm"), OsStr::new("-rf"), OsStr::new("--"), target.as_os_str()];
    let removed = vm.exec_builder().argv(argv).user("0:0").cwd("/").output();
    if !removed.is_ok_and(|outcome| outcome.success()) {
        report::warning(&format!("a part of the copy may remain at {}", target.display()));
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::File { source, .. } if source.kind() == ErrorKind::BrokenPipe)
}

/// Copies a file or a directory of the machine to a path of the host. Its owner there is the one in the
/// machine, by numbers, if `keeps_owner` is set, otherwise this process's user.
pub(crate) fn out_of_machine(
    vm: &Vm,
    source: &Path,
    target: &Path,
    keeps_owner: bool,
) -> Result<(), Error> {
    let is_folder = fs::metadata(target).is_ok_and(|found| found.is_dir());
    let target = if is_folder || ends_with_slash(target) {
        fs::create_dir_all(target).map_err(Error::file("mkdir", target))?;
        let own = source.file_name();
        target.join(own.ok_or_else(|| UsageError::NoFileName { path: source.to_owned() })?)
    } else {
        target.to_owned()
    };
    let beside = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(UsageError::NoFileName { path: target }.into()),
    };
    let (mut staging, own_alone) = (tempfile::Builder::new(), Permissions::from_mode(0o700));
    let staging = staging.prefix(".supermachine-").permissions(own_alone).tempdir_in(beside);
    let staging = staging.map_err(Error::file("mkdir", beside))?;
    let (reader, writer) = io::pipe().map_err(Error::file("pipe", beside))?;
    let (copied, unpacked) = thread::scope(|scope| {
        let copied = scope.spawn(|| vm.copy_out(source, writer));
        let unpacked = Unpacked::read(reader, staging.path(), keeps_owner);
        (copied.join().unwrap_or(Ok(())), unpacked)
    });
    match (copied, unpacked) {
        // The archive could not be written because the reader failed.
        (
            Err(supermachine::Error::Transfer {
                source: supermachine::error::TransferError::Copy { .. },
            }),
            Err(error),
        ) => Err(error),
        (Err(error), _) => Err(error.into()),
        (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(unpacked)) => unpacked.settle(&target),
    }
}

/// What is at a path in the machine.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Missing,
    Directory,
    File,
}

impl Kind {
    fn of(vm: &Vm, path: &Path) -> Result<Self, Error> {
        match vm.file_reader(path)?.read(&mut [0]) {
            Ok(0 | 1..) => Ok(Self::File),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(supermachine::Error::Agent { failure }) => Ok(match failure.errno {
                    ENOENT | ENOTDIR => Self::Missing,
                    EISDIR => Self::Directory,
                    _ => Self::File,
                }),
                _ => Err(Error::File { operation: "stat", path: path.to_owned(), source: error }),
            },
        }
    }
}

/// Writes a file or a folder as an archive, under this name.
fn pack(to: impl Write, name: &Path, source: &Path, owner: Owner) -> Result<(), Error> {
    let mut archive = Builder::new(to);
    let found = fs::metadata(source).map_err(Error::file("stat", source))?;
    add(&mut archive, name, (source, &found), owner)?;
    let done = archive.into_inner().and_then(|mut to| to.flush());
    done.map_err(Error::file("read", source))
}

fn add(
    archive: &mut Builder<impl Write>,
    name: &Path,
    (path, found): (&Path, &Metadata),
    owner: Owner,
) -> Result<(), Error> {
    let mut header = Header::new_gnu();
    header.set_metadata(found);
    let (uid, gid) = owner.of((found.uid(), found.gid()));
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    if found.is_symlink() {
        let target = fs::read_link(path).map_err(Error::file("readlink", path))?;
        header.set_size(0);
        return archive.append_link(&mut header, name, target).map_err(Error::file("read", path));
    }
    if found.is_file() {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let mut content = file.take(found.len());
        archive.append_data(&mut header, name, &mut content).map_err(Error::file("read", path))?;
        return match content.limit() {
            0 => Ok(()),
            _ => Err(Error::file("read", path)(ErrorKind::UnexpectedEof.into())),
        };
    }
    if !found.is_dir() {
        report::warning(&format!(
            "skipped {}: not a file, folder or symbolic link",
            path.display()
        ));
        return Ok(());
    }
    header.set_size(0);
    archive.append_data(&mut header, name, io::empty()).map_err(Error::file("read", path))?;
    for entry in fs::read_dir(path).map_err(Error::file("read", path))? {
        let entry = entry.map_err(Error::file("read", path))?;
        let (path, found) = (entry.path(), entry.metadata());
        let found = found.map_err(Error::file("stat", &path))?;
        add(archive, &name.join(entry.file_name()), (&path, &found), owner)?;
    }
    Ok(())
}

/// The name of a copy in a folder.
fn name_of(source: &Path) -> Result<std::ffi::OsString, Error> {
    if let Some(name) = source.file_name() {
        return Ok(name.to_owned());
    }
    let whole = fs::canonicalize(source).map_err(Error::file("stat", source))?;
    let name = whole.file_name().map(OsStr::to_owned);
    Ok(name.ok_or_else(|| UsageError::NoFileName { path: source.to_owned() })?)
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests;
