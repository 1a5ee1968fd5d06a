//! Unpacking what a machine packed, and putting it in its place.
//!
//! The archive is a stranger's. Bounds: what an entry takes beside its content, and what is kept of
//! all directories together. Its content takes as much of the disk as the machine sends. No entry
//! is written outside the new folder, which is this process's alone.
//!
//! Directories get their modes and times last, once all is in its place: into one that may not be
//! written to nothing can be put, and it could not be moved or removed either.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tar::{Archive, Entry, EntryType};

use super::failed;
use crate::error::Error;
use crate::report;

/// What headers and names of one entry may take.
const MAX_NAMES: u64 = 64 << 10;
/// What the names of all directories may take.
const MAX_DIRECTORIES: usize = 64 << 20;
/// What is kept of a directory beside its name.
const KEPT: usize = 128;

/// What came out of a machine, in a new folder.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The folder.
    folder: PathBuf,
    /// Its file's name if it is one file, and none if the folder is what came.
    pub(super) content: PathBuf,
    /// By their names in the folder, of which the folder's own is empty.
    directories: BTreeMap<PathBuf, Attributes>,
}

/// What a directory gets when all is in its place.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    modified: Option<SystemTime>,
}

impl Unpacked {
    /// Unpacks an archive into a new folder.
    pub(super) fn read(from: impl Read, folder: &Path) -> Result<Self, Error> {
        let mut unpacked = Self {
            folder: folder.to_owned(),
            content: PathBuf::new(),
            directories: BTreeMap::new(),
        };
        unpacked.take_all(from).map_err(failed("write", folder))?;
        Ok(unpacked)
    }

    fn take_all(&mut self, from: impl Read) -> io::Result<()> {
        let allowance = Rc::new(Cell::new(MAX_NAMES));
        let mut archive = Archive::new(Metered { from, allowance: Rc::clone(&allowance) });
        let (mut is_first, mut names, mut left_out) = (true, 0, 0_u64);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = self.name_of(&entry, is_first)?;
            is_first = false;
            allowance.set(u64::MAX);
            match entry.header().entry_type() {
                EntryType::Directory => {
                    names += name.as_os_str().len() + KEPT;
                    if names > MAX_DIRECTORIES {
                        return Err(invalid("too many directories"));
                    }
                    make_directories(&self.folder, &name)?;
                    let _ = self.directories.insert(name, Attributes::of(&entry)?);
                }
                EntryType::Regular
                | EntryType::Continuous
                | EntryType::Symlink
                | EntryType::Link => {
                    if !entry.unpack_in(&self.folder)? {
                        return Err(invalid("a name that leads elsewhere"));
                    }
                }
                _ => left_out += 1,
            }
            allowance.set(MAX_NAMES);
        }
        if left_out > 0 {
            report::warning(&format!("left out {left_out} of what is no file, folder or link"));
        }
        Ok(())
    }

    /// An entry's name in the folder.
    fn name_of(&mut self, entry: &Entry<'_, impl Read>, is_first: bool) -> io::Result<PathBuf> {
        let whole = entry.path()?;
        let mut name = PathBuf::new();
        for part in whole.components() {
            match part {
                Component::Normal(part) => name.push(part),
                Component::CurDir => {}
                _ => return Err(invalid("a name that leads elsewhere")),
            }
        }
        // Of a directory all names begin with a dot. A file has its own, and comes alone.
        let is_of_directory = whole.starts_with(".");
        if is_first && !is_of_directory && whole.components().count() == 1 {
            self.content.clone_from(&name);
        } else if !is_of_directory && is_first || !self.content.as_os_str().is_empty() {
            return Err(invalid("an entry beside what was asked for"));
        }
        Ok(name)
    }

    /// Puts what came in its place: a folder's content into the folder that is there.
    pub(super) fn settle(&self, target: &Path) -> Result<(), Error> {
        self.settle_at(&self.content, target)
    }

    fn settle_at(&self, name: &Path, target: &Path) -> Result<(), Error> {
        let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        // Joined with nothing, a path ends with a slash.
        let from =
            if name.as_os_str().is_empty() { self.folder.clone() } else { self.folder.join(name) };
        if !is_dir(&from) || !is_dir(target) {
            fs::rename(&from, target).map_err(failed("rename", target))?;
            return self.finish(name, target);
        }
        for entry in fs::read_dir(&from).map_err(failed("read", &from))? {
            let own = entry.map_err(failed("read", &from))?.file_name();
            self.settle_at(&name.join(&own), &target.join(&own))?;
        }
        Ok(())
    }

    /// Gives the directories of what was moved what they are to have, the innermost first.
    fn finish(&self, moved: &Path, target: &Path) -> Result<(), Error> {
        let from_there = self.directories.range(moved.to_owned()..);
        let directories: Vec<_> =
            from_there.take_while(|(name, _)| name.starts_with(moved)).collect();
        for (name, attributes) in directories.into_iter().rev() {
            let inner = name.strip_prefix(moved).unwrap_or(name);
            let path: PathBuf = target.components().chain(inner.components()).collect();
            attributes.give_to(&path).map_err(failed("chmod", &path))?;
        }
        Ok(())
    }
}

impl Attributes {
    fn of(entry: &Entry<'_, impl Read>) -> io::Result<Self> {
        let since = Duration::from_secs(entry.header().mtime()?);
        let modified = UNIX_EPOCH.checked_add(since);
        Ok(Self { mode: entry.header().mode()? & 0o777, modified })
    }

    fn give_to(self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        if let Some(modified) = self.modified {
            directory.set_modified(modified)?;
        }
        directory.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// Makes a directory and those above it that are not there. No link is followed.
fn make_directories(folder: &Path, name: &Path) -> io::Result<()> {
    let mut path = folder.to_owned();
    for part in name.components() {
        path.push(part);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&path)?.is_dir() {
                    return Err(error);
                }
            }
            done => done?,
        }
    }
    Ok(())
}

/// A reader that fails when more is read than is allowed for now.
struct Metered<R> {
    from: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowance.get();
        if allowed == 0 {
            return Err(invalid("an entry with too long a name"));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.from.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.allowance.set(allowed.saturating_sub(count as u64));
        Ok(count)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the machine sent {what}"))
}
