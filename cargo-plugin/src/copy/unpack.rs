//! Unpacks an archive from a machine, and moves it into place.
//!
//! The archive is untrusted. Names and directories are bounded; file contents use as much disk as the
//! machine sends. No entry is written outside the new folder, which is private to this process.
//!
//! Directories get their modes and times last. A read-only directory could not be filled, moved or
//! removed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tar::{Archive, Entry, EntryType};

use crate::error::Error;
use crate::report;

/// The most bytes for the headers and names of one entry.
const MAX_NAMES: u64 = 64 << 10;
/// The most bytes for the attributes of all directories.
const MAX_DIRECTORIES: usize = 64 << 20;
/// The bytes that a directory needs besides its name.
const KEPT: usize = 128;

/// An unpacked archive in a new folder.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The folder.
    folder: PathBuf,
    /// The name of the copied file. Empty if the copy is a directory, which is then the folder itself.
    pub(super) content: PathBuf,
    /// By their paths in the folder. The folder's own path is empty.
    directories: BTreeMap<PathBuf, Attributes>,
    /// Whether the copies get the owners that the archive names.
    keeps_owner: bool,
}

/// The mode and time of a directory, set at the end.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    modified: Option<SystemTime>,
    /// The owner to give, by numbers.
    owner: Option<(u32, u32)>,
}

impl Unpacked {
    /// Unpacks an archive into a new folder.
    pub(super) fn read(from: impl Read, folder: &Path, keeps_owner: bool) -> Result<Self, Error> {
        let mut unpacked = Self {
            folder: folder.to_owned(),
            content: PathBuf::new(),
            directories: BTreeMap::new(),
            keeps_owner,
        };
        unpacked.take_all(from).map_err(Error::file("write", folder))?;
        Ok(unpacked)
    }

    fn take_all(&mut self, from: impl Read) -> io::Result<()> {
        let allowance = Rc::new(Cell::new(MAX_NAMES));
        let mut archive = Archive::new(LimitedReader { from, allowance: Rc::clone(&allowance) });
        archive.set_preserve_ownerships(self.keeps_owner);
        let (mut is_first, mut names, mut skipped) = (true, 0, 0_u64);
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
                    let attributes = Attributes::of(&entry, self.keeps_owner)?;
                    let _ = self.directories.insert(name, attributes);
                }
                EntryType::Regular
                | EntryType::Continuous
                | EntryType::Symlink
                | EntryType::Link => {
                    if !entry.unpack_in(&self.folder)? {
                        return Err(invalid("a path that leaves the folder"));
                    }
                }
                _ => skipped += 1,
            }
            allowance.set(MAX_NAMES);
        }
        if skipped > 0 {
            report::warning(&format!(
                "skipped {skipped} entries that are not files, folders or links"
            ));
        }
        Ok(())
    }

    /// An entry's path in the folder.
    fn name_of(&mut self, entry: &Entry<'_, impl Read>, is_first: bool) -> io::Result<PathBuf> {
        let whole = entry.path()?;
        let mut name = PathBuf::new();
        for part in whole.components() {
            match part {
                Component::Normal(part) => name.push(part),
                Component::CurDir => {}
                _ => return Err(invalid("a path that leaves the folder")),
            }
        }
        // A directory's entries all start with a dot. A file is the only entry.
        let is_of_directory = whole.starts_with(".");
        if is_first && !is_of_directory && whole.components().count() == 1 {
            self.content.clone_from(&name);
        } else if !is_of_directory && is_first || !self.content.as_os_str().is_empty() {
            return Err(invalid("an entry that was not asked for"));
        }
        Ok(name)
    }

    /// Moves the copy into place. Merges a directory with an existing one.
    pub(super) fn settle(&self, target: &Path) -> Result<(), Error> {
        self.settle_at(&self.content, target)
    }

    fn settle_at(&self, name: &Path, target: &Path) -> Result<(), Error> {
        let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        // Joining an empty path would append a slash.
        let from =
            if name.as_os_str().is_empty() { self.folder.clone() } else { self.folder.join(name) };
        if !is_dir(&from) || !is_dir(target) {
            fs::rename(&from, target).map_err(Error::file("rename", target))?;
            return self.finish(name, target);
        }
        for entry in fs::read_dir(&from).map_err(Error::file("read", &from))? {
            let own = entry.map_err(Error::file("read", &from))?.file_name();
            self.settle_at(&name.join(&own), &target.join(&own))?;
        }
        Ok(())
    }

    /// Sets modes and times of the moved directories, the innermost first.
    fn finish(&self, moved: &Path, target: &Path) -> Result<(), Error> {
        let from_there = self.directories.range(moved.to_owned()..);
        let directories: Vec<_> =
            from_there.take_while(|(name, _)| name.starts_with(moved)).collect();
        for (name, attributes) in directories.into_iter().rev() {
            let inner = name.strip_prefix(moved).unwrap_or(name);
            let path: PathBuf = target.components().chain(inner.components()).collect();
            attributes.give_to(&path).map_err(Error::file("chmod", &path))?;
        }
        Ok(())
    }
}

impl Attributes {
    fn of(entry: &Entry<'_, impl Read>, keeps_owner: bool) -> io::Result<Self> {
        let since = Duration::from_secs(entry.header().mtime()?);
        let modified = UNIX_EPOCH.checked_add(since);
        let number = |value: u64| u32::try_from(value).map_err(|_| invalid("an impossible owner"));
        let owner = match keeps_owner {
            true => Some((number(entry.header().uid()?)?, number(entry.header().gid()?)?)),
            false => None,
        };
        Ok(Self { mode: entry.header().mode()? & 0o777, modified, owner })
    }

    fn give_to(self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        if let Some((uid, gid)) = self.owner {
            fchown(&directory, Some(uid), Some(gid))?;
        }
        if let Some(modified) = self.modified {
            directory.set_modified(modified)?;
        }
        directory.set_permissions(Permissions::from_mode(self.mode))
    }
}

/// Creates a directory and its missing parents, without following links.
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

/// A reader that fails when its allowance is used up.
struct LimitedReader<R> {
    from: R,
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowance.get();
        if allowed == 0 {
            return Err(invalid("an entry whose name is too long"));
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
