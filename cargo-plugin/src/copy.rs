//! Files and folders, between the host and a machine. They go as a tar archive.
//!
//! What comes out of a machine is a stranger's: it is [unpacked](unpack) into a new folder beside its
//! target, which no entry gets out of, and only then put in its place. Nothing that is replaced is
//! written through, so that no link of either side leads elsewhere.

mod unpack;

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use supermachine::Vm;
use tar::{Builder, Header};

use self::unpack::Unpacked;
use crate::error::Error;
use crate::report;

/// The guest's error numbers for paths that lead to nothing, and to a directory.
const ENOENT: u16 = 2;
const ENOTDIR: u16 = 20;
const EISDIR: u16 = 21;

/// Copies a file or a folder of the host to a path of the machine.
pub(crate) fn into_machine(vm: &Vm, source: &Path, target: &Path) -> Result<(), Error> {
    let found = fs::metadata(source).map_err(failed("stat", source))?;
    let name = name_of(source)?;
    let there = Kind::of(vm, target)?;
    let target = match there {
        Kind::Directory => target.join(name),
        Kind::Missing if ends_with_slash(target) => target.join(name),
        Kind::File if found.is_dir() || ends_with_slash(target) => {
            return Err(Error::NoFolder { path: target.to_owned() });
        }
        _ => target.to_owned(),
    };
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::NoFolder { path: target });
    };
    let (reader, writer) = io::pipe().map_err(failed("pipe", source))?;
    let (packed, copied) = thread::scope(|scope| {
        let packed = scope.spawn(|| pack(writer, Path::new(name), source));
        let copied = vm.copy_in(folder, reader);
        (packed.join().unwrap_or(Ok(())), copied)
    });
    match copied {
        // The archive was whole; what was left out of it is told.
        Ok(()) => packed,
        // What the machine did not take could not be written.
        Err(error) => Err(error.into()),
    }
}

/// Copies a file or a directory of the machine to a path of the host.
pub(crate) fn out_of_machine(vm: &Vm, source: &Path, target: &Path) -> Result<(), Error> {
    let is_folder = fs::metadata(target).is_ok_and(|found| found.is_dir());
    let target = if is_folder || ends_with_slash(target) {
        fs::create_dir_all(target).map_err(failed("mkdir", target))?;
        let own = source.file_name();
        target.join(own.ok_or_else(|| Error::NoFileName { path: source.to_owned() })?)
    } else {
        target.to_owned()
    };
    let beside = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Error::NoFileName { path: target }),
    };
    let (mut staging, own_alone) = (tempfile::Builder::new(), Permissions::from_mode(0o700));
    let staging = staging.prefix(".supermachine-").permissions(own_alone).tempdir_in(beside);
    let staging = staging.map_err(failed("mkdir", beside))?;
    let (reader, writer) = io::pipe().map_err(failed("pipe", beside))?;
    let (copied, unpacked) = thread::scope(|scope| {
        let copied = scope.spawn(|| vm.copy_out(source, writer));
        let unpacked = Unpacked::read(reader, staging.path());
        (copied.join().unwrap_or(Ok(())), unpacked)
    });
    match (copied, unpacked) {
        // It could not be written because it was not read on.
        (Err(supermachine::Error::Copy { .. }), Err(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
        (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(unpacked)) => unpacked.settle(&target),
    }
}

/// What a path of the machine leads to.
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

/// Packs a file or a folder under this name.
fn pack(to: impl Write, name: &Path, source: &Path) -> Result<(), Error> {
    let mut archive = Builder::new(to);
    let found = fs::metadata(source).map_err(failed("stat", source))?;
    add(&mut archive, name, source, &found)?;
    let done = archive.into_inner().and_then(|mut to| to.flush());
    done.map_err(failed("read", source))
}

fn add(
    archive: &mut Builder<impl Write>,
    name: &Path,
    path: &Path,
    found: &Metadata,
) -> Result<(), Error> {
    let mut header = Header::new_gnu();
    header.set_metadata(found);
    header.set_uid(0);
    header.set_gid(0);
    if found.is_symlink() {
        let target = fs::read_link(path).map_err(failed("readlink", path))?;
        header.set_size(0);
        return archive.append_link(&mut header, name, target).map_err(failed("read", path));
    }
    if found.is_file() {
        let file = File::open(path).map_err(failed("open", path))?;
        let mut content = file.take(found.len());
        archive.append_data(&mut header, name, &mut content).map_err(failed("read", path))?;
        return match content.limit() {
            0 => Ok(()),
            _ => Err(failed("read", path)(ErrorKind::UnexpectedEof.into())),
        };
    }
    if !found.is_dir() {
        report::warning(&format!("{} is no file, folder or link: left out", path.display()));
        return Ok(());
    }
    header.set_size(0);
    archive.append_data(&mut header, name, io::empty()).map_err(failed("read", path))?;
    for entry in fs::read_dir(path).map_err(failed("read", path))? {
        let entry = entry.map_err(failed("read", path))?;
        let (path, found) = (entry.path(), entry.metadata());
        let found = found.map_err(failed("stat", &path))?;
        add(archive, &name.join(entry.file_name()), &path, &found)?;
    }
    Ok(())
}

/// The name that a copy gets in a folder.
fn name_of(source: &Path) -> Result<std::ffi::OsString, Error> {
    if let Some(name) = source.file_name() {
        return Ok(name.to_owned());
    }
    let whole = fs::canonicalize(source).map_err(failed("stat", source))?;
    let name = whole.file_name().map(OsStr::to_owned);
    name.ok_or_else(|| Error::NoFileName { path: source.to_owned() })
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

#[cfg(test)]
mod tests;
