//! Host files that are added to an image, as one layer above its own.
//!
//! The layer depends only on the files' paths, contents and modes: the owner is root, times are
//! zero, and a file's mode is 0755 if any user may execute it, else 0644. Directories of the image
//! keep their attributes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use supermachine_formats::{Digest, Hasher};

use crate::error::{BakeError, InputError};
use crate::oci::{BlobStore, Compression, Layer};
use crate::rootfs::Directories;

/// The deepest nesting of directories: a mount can form a circle, even where links cannot.
const MAX_DEPTH: usize = 64;

/// The files to add, in the caller's order.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddedFiles(Vec<(String, PathBuf)>);

impl AddedFiles {
    /// Adds the host's file or directory `from` as `to`.
    pub(crate) fn add(&mut self, to: String, from: PathBuf) {
        self.0.push((to, from));
    }

    /// Whether no files were added.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The host's files and directories.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(_, from)| from.as_path())
    }

    /// The digest of the layer; `None` without files.
    pub(crate) fn digest(&self) -> Result<Option<Digest>, BakeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut sink = Sink { hasher: Hasher::new(), size: 0, blob: None };
        self.write(&mut sink)?;
        Ok(Some(sink.hasher.finish()))
    }

    /// Writes the layer to the cache; `None` without files.
    pub(crate) fn layer(&self, blobs: &BlobStore) -> Result<Option<Layer>, BakeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut sink = Sink { hasher: Hasher::new(), size: 0, blob: Some(blobs.writer()?) };
        self.write(&mut sink)?;
        let (digest, size) = (sink.hasher.finish(), sink.size);
        if let Some(blob) = sink.blob {
            blob.commit(digest, size)?;
        }
        let path = blobs.path(digest);
        Ok(Some(Layer {
            digest,
            diff_id: digest,
            size,
            compression: Compression::None,
            path,
            directories: Directories::Keep,
        }))
    }

    fn write(&self, sink: &mut Sink) -> Result<(), BakeError> {
        let mut archive = tar::Builder::new(sink);
        for (to, from) in &self.0 {
            add(&mut archive, &inside(to)?, from, 0)?;
        }
        let cannot = BakeError::io("write the layer of", self.0.last().map_or("", |(to, _)| to));
        archive.into_inner().map(drop).map_err(cannot)
    }
}

/// The path without its leading slash, as archives spell it.
fn inside(to: &str) -> Result<PathBuf, BakeError> {
    let invalid = || BakeError::Input(InputError::InvalidGuestPath { path: to.to_owned() });
    let path = to.strip_prefix('/').ok_or_else(invalid)?;
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    // This prefix marks a whiteout, which removes a file.
    let is_whiteout = parts.iter().any(|part| part.starts_with(".wh."));
    if path.contains('\0') || is_whiteout || !parts.iter().all(|part| is_plain(part)) {
        return Err(invalid());
    }
    Ok(parts.iter().collect())
}

fn add(
    archive: &mut tar::Builder<&mut Sink>,
    to: &Path,
    from: &Path,
    depth: usize,
) -> Result<(), BakeError> {
    let metadata = fs::symlink_metadata(from).map_err(BakeError::io("read", from))?;
    // A link that the caller names is followed; links below a directory stay links.
    let metadata = match depth {
        0 => fs::metadata(from).map_err(BakeError::io("read", from))?,
        _ => metadata,
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return add_folder(archive, to, from, depth);
    }
    let mut header = header(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(BakeError::io("read", from))?;
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        let added = archive.append_link(&mut header, to, target);
        return added.map_err(BakeError::io("add", from));
    }
    if !kind.is_file() {
        let source = io::Error::other("it is neither a file, a folder nor a link");
        return Err(BakeError::io("add", from)(source));
    }
    header.set_entry_type(tar::EntryType::Regular);
    let file = File::open(from).map_err(BakeError::io("read", from))?;
    header.set_size(metadata.len());
    // A file that changes its size meanwhile must not corrupt the entries after it.
    let added = archive.append_data(&mut header, to, ExactLength { file, left: metadata.len() });
    added.map_err(BakeError::io("add", from))
}

fn add_folder(
    archive: &mut tar::Builder<&mut Sink>,
    to: &Path,
    from: &Path,
    depth: usize,
) -> Result<(), BakeError> {
    if depth == MAX_DEPTH {
        let source = io::Error::other("its folders lie too deep within each other");
        return Err(BakeError::io("add", from)(source));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(BakeError::io("read", from))? {
        names.push(entry.map_err(BakeError::io("read", from))?.file_name());
    }
    names.sort();
    if names.is_empty() {
        // Other directories exist already or are created for their entries.
        let mut header = header(0o755);
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        let added = archive.append_data(&mut header, to, io::empty());
        return added.map_err(BakeError::io("add", from));
    }
    for name in names {
        if name.as_encoded_bytes().starts_with(b".wh.") {
            let path = to.join(&name).to_string_lossy().into_owned();
            return Err(BakeError::Input(InputError::InvalidGuestPath { path }));
        }
        add(archive, &to.join(&name), &from.join(&name), depth + 1)?;
    }
    Ok(())
}

fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// A file's content, exactly as long as its metadata said; otherwise an error.
struct ExactLength {
    file: File,
    left: u64,
}

impl io::Read for ExactLength {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.file.read(buffer)? {
            0 => Err(io::Error::other("it became shorter while it was read")),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// Hashes what is written, and optionally stores it.
struct Sink {
    hasher: Hasher,
    size: u64,
    blob: Option<crate::oci::BlobWriter>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(blob) = &mut self.blob {
            blob.write(bytes).map_err(io::Error::other)?;
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &AddedFiles) -> Vec<(String, u32, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        let layer = files.layer(&blobs).unwrap().unwrap();
        assert_eq!(Some(layer.digest), files.digest().unwrap());
        let mut archive = tar::Archive::new(File::open(layer.path).unwrap());
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
                let name = entry.path().unwrap().to_str().unwrap().to_owned();
                (name, header.mode().unwrap(), header.size().unwrap())
            })
            .collect()
    }

    #[test]
    fn folder_is_added_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/empty")).unwrap();
        fs::write(path("a/run"), "#!").unwrap();
        fs::set_permissions(path("a/run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path("b"), "text").unwrap();
        std::os::unix::fs::symlink("b", path("link")).unwrap();
        let mut files = AddedFiles::default();
        files.add("/opt/app/".into(), dir.path().to_owned());
        files.add("/etc/b".into(), path("link"));
        let expected = [
            ("opt/app/a/empty", 0o755, 0),
            ("opt/app/a/run", 0o755, 2),
            ("opt/app/b", 0o644, 4),
            ("opt/app/link", 0o777, 0),
            // The caller named the link itself, so it is followed.
            ("etc/b", 0o644, 4),
        ];
        let expected = expected.map(|(name, mode, size)| (name.to_owned(), mode, size));
        assert_eq!(names(&files), expected);
    }

    #[test]
    fn layer_depends_on_content_and_mode_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "1").unwrap();
        let digest = |to: &str| {
            let mut files = AddedFiles::default();
            files.add(to.into(), path.clone());
            files.digest().unwrap().unwrap()
        };
        let first = digest("/a");
        File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest("/a"), first);
        assert_ne!(digest("/b"), first);
        fs::write(&path, "2").unwrap();
        assert_ne!(digest("/a"), first);
    }

    #[test]
    fn no_files_are_no_layer() {
        assert_eq!(AddedFiles::default().digest().unwrap(), None);
    }

    #[test]
    fn impossible_paths_and_missing_files_are_errors() {
        for to in ["", "a", "/", "/../a", "/a//b", "/./a", "/a/.wh.b", "/a\0b"] {
            let mut files = AddedFiles::default();
            files.add(to.into(), "/etc/hostname".into());
            let error = files.digest().unwrap_err();
            assert!(
                matches!(error, BakeError::Input(InputError::InvalidGuestPath { .. })),
                "{to:?}: {error}"
            );
        }
        let mut files = AddedFiles::default();
        files.add("/a".into(), "/no/such/file".into());
        assert!(matches!(files.digest(), Err(BakeError::Io { operation: "read", .. })));
    }
}
