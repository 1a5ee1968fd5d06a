//! Image archives: an index of a tar's files by name.
//!
//! Parses tar headers of image archives, not of layers. Unpacks nothing. Refuses names and links that
//! lead out of the archive, and bounds extension headers before reading them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::compressed::{Input, copied};
use crate::oci::cache::BlobStore;
use crate::oci::error::{ArchiveProblem, Error};

const BLOCK: u64 = 512;

/// The most entries of an archive. An image has a few per layer.
const MAX_ENTRIES: usize = 1 << 16;

/// The most bytes of an extension header.
const MAX_EXTENSION: u64 = 64 << 10;

/// The most links to follow to a file.
const MAX_LINKS: usize = 8;

/// An indexed tar file.
#[derive(Debug)]
pub(crate) struct Tarball {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File { offset: u64, size: u64 },
    Link { target: String },
    Other,
}

/// Extensions of the next entry.
#[derive(Debug, Default)]
struct Extension {
    name: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl Tarball {
    /// Opens the archive at `path`, or standard input if that is `-`. First copies a compressed or piped
    /// archive next to the blobs.
    pub(crate) fn open(path: &Path, blobs: &BlobStore) -> Result<Self, Error> {
        let problem = |source| Error::Archive { path: path.to_owned(), source };
        let opened = Input::open(path)?;
        if opened.is_dir {
            return Err(problem(ArchiveProblem::Unrecognized));
        }
        let file = match opened.into_file() {
            Ok(file) => file,
            Err(stream) => copied(stream, path, blobs)?,
        };
        let end = file.metadata().map_err(Error::io("read", path))?.len();
        if end == 0 {
            return Err(problem(unreadable(io::ErrorKind::UnexpectedEof.into())));
        }
        let entries = Index { file: &file, end }.read().map_err(problem)?;
        Ok(Self { path: path.to_owned(), file, entries })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The content and size of the file `name`. Follows links within the archive.
    pub(crate) fn file(&self, name: &str) -> Result<(io::Take<&File>, u64), ArchiveProblem> {
        let not_a_file = || ArchiveProblem::NotAFile { name: name.to_owned() };
        let mut current = normalize(name)?;
        for _ in 0..=MAX_LINKS {
            match self.entries.get(&current) {
                None => return Err(ArchiveProblem::Missing { name: name.to_owned() }),
                Some(Entry::Other) => return Err(not_a_file()),
                Some(Entry::Link { target }) => current.clone_from(target),
                Some(Entry::File { offset, size }) => {
                    let mut file = &self.file;
                    file.seek(SeekFrom::Start(*offset))
                        .map_err(|source| ArchiveProblem::Unreadable { source })?;
                    return Ok((file.take(*size), *size));
                }
            }
        }
        Err(not_a_file())
    }
}

/// Indexes a tar file of `end` bytes.
struct Index<'a> {
    file: &'a File,
    end: u64,
}

impl Index<'_> {
    fn read(mut self) -> Result<BTreeMap<String, Entry>, ArchiveProblem> {
        let mut entries = BTreeMap::new();
        let mut extension = Extension::default();
        let mut position = 0;
        let mut count = 0;
        while let Some(header) = self.header(position)? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(ArchiveProblem::TooManyEntries { limit: MAX_ENTRIES });
            }
            let offset = add(position, BLOCK)?;
            let kind = header.entry_type();
            let own = header.entry_size().map_err(unreadable)?;
            let is_extension = matches!(
                kind,
                EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            );
            let size = if is_extension { own } else { extension.size.unwrap_or(own) };
            let size = if has_no_content(kind) { 0 } else { size };
            if add(offset, size)? > self.end {
                return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
            }
            if is_extension {
                self.extend(kind, offset, size, &mut extension)?;
            } else {
                let (name, entry) = describe(&header, offset, size, &extension)?;
                extension = Extension::default();
                entries.insert(name, entry);
            }
            position = add(offset, size.checked_next_multiple_of(BLOCK).ok_or_else(overflow)?)?;
        }
        Ok(entries)
    }

    /// The header at `position`; `None` at the end of the archive.
    fn header(&mut self, position: u64) -> Result<Option<Header>, ArchiveProblem> {
        if position >= self.end {
            return Ok(None);
        }
        let mut header = Header::new_old();
        self.file.seek(SeekFrom::Start(position)).map_err(unreadable)?;
        self.file.read_exact(header.as_mut_bytes()).map_err(unreadable)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |(at, byte): (usize, &u8)| {
            u32::from(if (148..156).contains(&at) { b' ' } else { *byte })
        };
        let found: u32 = bytes.iter().enumerate().map(sum).sum();
        match header.cksum() {
            Ok(stated) if stated == found => Ok(Some(header)),
            _ if position == 0 => Err(ArchiveProblem::Unrecognized),
            _ => Err(unreadable(io::ErrorKind::InvalidData.into())),
        }
    }

    fn extend(
        &mut self,
        kind: EntryType,
        offset: u64,
        size: u64,
        extension: &mut Extension,
    ) -> Result<(), ArchiveProblem> {
        if size > MAX_EXTENSION {
            return Err(unreadable(io::ErrorKind::InvalidData.into()));
        }
        let mut content = Vec::new();
        self.file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        self.file.take(size).read_to_end(&mut content).map_err(unreadable)?;
        let text = || {
            let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
            String::from_utf8_lossy(&content[..end]).into_owned()
        };
        match kind {
            EntryType::GNULongName => extension.name = Some(text()),
            EntryType::GNULongLink => extension.target = Some(text()),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(&content) {
                    let record = record.map_err(unreadable)?;
                    let value = || String::from_utf8_lossy(record.value_bytes()).into_owned();
                    match record.key_bytes() {
                        b"path" => extension.name = Some(value()),
                        b"linkpath" => extension.target = Some(value()),
                        b"size" => {
                            let size = value().parse();
                            let invalid = |_| unreadable(io::ErrorKind::InvalidData.into());
                            extension.size = Some(size.map_err(invalid)?);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn describe(
    header: &Header,
    offset: u64,
    size: u64,
    extension: &Extension,
) -> Result<(String, Entry), ArchiveProblem> {
    let own_name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
    let name = normalize(&extension.name.clone().unwrap_or_else(own_name))?;
    let target = || {
        let own = header.link_name_bytes().unwrap_or_default();
        extension.target.clone().unwrap_or_else(|| String::from_utf8_lossy(&own).into_owned())
    };
    let entry = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Entry::File { offset, size },
        EntryType::Link => Entry::Link { target: normalize(&target())? },
        EntryType::Symlink => {
            let target = target();
            let escape = || ArchiveProblem::Escape { name: target.clone() };
            if target.starts_with('/') {
                return Err(escape());
            }
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let target = resolve(&format!("{folder}/{target}")).ok_or_else(escape)?;
            Entry::Link { target }
        }
        _ => Entry::Other,
    };
    Ok((name, entry))
}

/// The name without `.` and repeated slashes. Refuses absolute names and `..`.
fn normalize(name: &str) -> Result<String, ArchiveProblem> {
    let is_bad = name.starts_with('/') || name.contains('\0') || name.split('/').any(|w| w == "..");
    match resolve(name) {
        Some(name) if !is_bad => Ok(name),
        _ => Err(ArchiveProblem::Escape { name: name.to_owned() }),
    }
}

/// The path with `.` and `..` resolved; `None` if it leads out of the archive.
fn resolve(path: &str) -> Option<String> {
    let mut words = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => {
                words.pop()?;
            }
            word => words.push(word),
        }
    }
    Some(words.join("/"))
}

fn has_no_content(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

fn add(a: u64, b: u64) -> Result<u64, ArchiveProblem> {
    a.checked_add(b).ok_or_else(overflow)
}

fn overflow() -> ArchiveProblem {
    unreadable(io::ErrorKind::InvalidData.into())
}

fn unreadable(source: io::Error) -> ArchiveProblem {
    ArchiveProblem::Unreadable { source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn header(name: &str, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn link(name: &str, target: &str) -> Header {
        let mut header = header(name, EntryType::Symlink, 0);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        header
    }

    fn open(parts: &[(Header, &[u8])]) -> Result<Tarball, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for (header, content) in parts {
            file.write_all(header.as_bytes()).unwrap();
            file.write_all(content).unwrap();
            file.write_all(&vec![0; (512 - content.len() % 512) % 512]).unwrap();
        }
        file.write_all(&[0; 1024]).unwrap();
        open_at(file.path())
    }

    fn open_at(path: &Path) -> Result<Tarball, Error> {
        let dir = tempfile::tempdir().unwrap();
        Tarball::open(path, &BlobStore::open(dir.path()).unwrap())
    }

    fn problem(parts: &[(Header, &[u8])]) -> ArchiveProblem {
        match open(parts) {
            Err(Error::Archive { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    fn content(tar: &Tarball, name: &str) -> String {
        let mut text = String::new();
        tar.file(name).unwrap().0.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn tarball_files_are_found_through_links() {
        let tar = open(&[
            (header("./a/b", EntryType::Regular, 3), b"abc"),
            (link("c/d", "../a/b"), b""),
            (link("loop", "loop"), b""),
            (header("dir/", EntryType::Directory, 0), b""),
        ])
        .unwrap();
        assert_eq!(content(&tar, "a/b"), "abc");
        assert_eq!(content(&tar, "./c/d"), "abc");
        for (name, missing) in [("x", true), ("loop", false), ("dir", false)] {
            match tar.file(name).map(drop) {
                Err(ArchiveProblem::Missing { .. }) => assert!(missing, "{name}"),
                Err(ArchiveProblem::NotAFile { .. }) => assert!(!missing, "{name}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(tar.file("../x").map(drop), Err(ArchiveProblem::Escape { .. })));
    }

    #[test]
    fn tarball_with_escaping_names_is_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x"] {
            let parts = [(header(name, EntryType::Regular, 0), b"".as_slice())];
            assert!(matches!(problem(&parts), ArchiveProblem::Escape { .. }), "{name}");
        }
        for target in ["/etc/passwd", "../../x"] {
            let parts = [(link("a/b", target), b"".as_slice())];
            assert!(matches!(problem(&parts), ArchiveProblem::Escape { .. }), "{target}");
        }
    }

    #[test]
    fn tarball_long_names_and_sizes_are_read() {
        let long = "n/".repeat(100) + "end";
        let pax = "23 path=somewhere/else\n19 comment=ignored\n";
        let tar = open(&[
            (header("L", EntryType::GNULongName, long.len() as u64), long.as_bytes()),
            (header("short", EntryType::Regular, 1), b"l"),
            (header("x", EntryType::XHeader, pax.len() as u64), pax.as_bytes()),
            (header("short", EntryType::Regular, 1), b"p"),
            (header("short", EntryType::Regular, 1), b"s"),
        ])
        .unwrap();
        assert_eq!(content(&tar, &long), "l");
        assert_eq!(content(&tar, "somewhere/else"), "p");
        assert_eq!(content(&tar, "short"), "s");
    }

    #[test]
    fn tarball_with_huge_claims_is_refused() {
        let huge = header("a", EntryType::Regular, u64::MAX >> 2);
        let truncated = header("a", EntryType::Regular, 1 << 20);
        let name = header("a", EntryType::GNULongName, MAX_EXTENSION + 1);
        let padding = vec![b'x'; 70 << 10];
        for parts in
            [vec![(huge, b"".as_slice())], vec![(truncated, b"abc")], vec![(name, &padding)]]
        {
            assert!(matches!(problem(&parts), ArchiveProblem::Unreadable { .. }));
        }
    }

    #[test]
    fn tarball_of_something_else_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; 2048]).unwrap();
        assert!(matches!(
            open_at(file.path()),
            Err(Error::Archive { source: ArchiveProblem::Unrecognized, .. })
        ));
    }
}
