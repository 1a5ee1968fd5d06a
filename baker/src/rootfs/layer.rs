//! Applies one layer to the tree.
//!
//! Owns decompression, the check against the config's digest, and the meaning of each archive entry,
//! including whiteouts. Does not know the archive format (`archive`) or how layers stack (`tree`).
//! Invariant: a layer is applied only if every byte of it was read and hashed.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use supermachine_formats::{Digest, Hasher};

use super::archive::{Archive, Entry, EntryKind};
use super::error::{EntryError, Error, LayerError};
use super::path::{EntryPath, PATH_MAX};
use super::source::{Compression, Directories, LayerSource};
use super::spool::{Spool, StoreError};
use super::tree::{Attributes, Metadata, Node, Tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The prefix of an old storage driver's own files, which are not part of images.
const BOOKKEEPING: &[u8] = b".wh..wh.";
/// The most bytes of one inode's attributes; EROFS cannot encode more.
const MAX_ATTRIBUTES: usize = 64 << 10;
const READ_BUFFER: usize = 256 << 10;
/// The largest window of a Zstandard frame, 2^27 bytes: the command line tool's default.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Reads the layer `source` and applies it to `tree`.
pub(super) fn apply<W: Write + Seek>(
    source: &LayerSource,
    tree: &mut Tree,
    spool: &mut Spool<W>,
) -> Result<(), Error> {
    let in_layer = |error| Error::Layer { layer: source.name, source: error };
    let blob = open(&source.path)?;
    let blob = BufReader::with_capacity(READ_BUFFER, blob);
    let directories = source.directories;
    let found = match source.compression {
        Compression::None => hash_and_read(blob, directories, tree, spool),
        Compression::Gzip => hash_and_read(MultiGzDecoder::new(blob), directories, tree, spool),
        Compression::Zstd => zstd_decoder(blob)
            .map_err(|source| LayerError::Read { source })
            .and_then(|decoder| hash_and_read(decoder, directories, tree, spool)),
    };
    let found = found.map_err(in_layer)?;
    if found == source.diff_id {
        Ok(())
    } else {
        Err(Error::DiffId { layer: source.name, expected: source.diff_id, found })
    }
}

/// Reads an uncompressed layer to its end and applies it to `tree`.
///
/// # Errors
/// [`LayerError`] if the archive is damaged or an entry is invalid. The tree is then incomplete and
/// must be dropped.
pub fn read_layer<R: Read, W: Write + Seek>(
    reader: R,
    tree: &mut Tree,
    spool: &mut Spool<W>,
) -> Result<(), LayerError> {
    read_layer_with(reader, Directories::default(), tree, spool)
}

fn read_layer_with<R: Read, W: Write + Seek>(
    reader: R,
    directories: Directories,
    tree: &mut Tree,
    spool: &mut Spool<W>,
) -> Result<(), LayerError> {
    tree.begin_layer();
    let mut archive = Archive::new(reader);
    while let Some(entry) = archive.next()? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        apply_entry(entry, &path, directories, &mut archive, tree, spool)?;
    }
    archive.drain()?;
    spool.end_layer();
    Ok(())
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::File { op: "open", path: path.into(), source })
}

fn zstd_decoder<'a, R: Read>(
    blob: BufReader<R>,
) -> std::io::Result<zstd::Decoder<'a, BufReader<R>>> {
    let mut decoder = zstd::Decoder::with_buffer(blob)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

fn hash_and_read<R: Read, W: Write + Seek>(
    reader: R,
    directories: Directories,
    tree: &mut Tree,
    spool: &mut Spool<W>,
) -> Result<Digest, LayerError> {
    let mut hashed = HashingReader { reader, hasher: Hasher::new() };
    // Headers are 512 bytes; a buffer saves calls of decompressor and hash.
    let buffered = BufReader::with_capacity(READ_BUFFER, &mut hashed);
    read_layer_with(buffered, directories, tree, spool)?;
    Ok(hashed.hasher.finish())
}

struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn apply_entry<R: Read, W: Write + Seek>(
    entry: Entry,
    name: &str,
    directories: Directories,
    archive: &mut Archive<R>,
    tree: &mut Tree,
    spool: &mut Spool<W>,
) -> Result<(), LayerError> {
    let refused = |source| LayerError::Entry { path: name.into(), source };
    let Entry { path, kind, metadata } = entry;
    let path = EntryPath::parse(&path).map_err(refused)?;
    if apply_whiteout(&path, tree).map_err(refused)? {
        return Ok(());
    }
    let metadata =
        Metadata { attributes: usable(metadata.attributes).map_err(refused)?, ..metadata };
    match kind {
        EntryKind::Directory => match directories {
            Directories::Replace => tree.add_directory(&path, metadata),
            Directories::Keep => tree.make_directory(&path),
        },
        EntryKind::HardLink(target) => hard_link(&path, &target, tree),
        EntryKind::Symlink(target) => {
            symlink_target(target).and_then(|target| tree.add(&path, metadata, target))
        }
        EntryKind::File { size, segments } => {
            let stored = spool.store(size, &segments, |buffer| archive.read_exact(buffer));
            let content = stored.map_err(|error| match error {
                StoreError::Source(source) => source,
                StoreError::Write(source) => LayerError::Spool { path: name.into(), source },
                StoreError::Refused(source) => refused(source),
            })?;
            tree.add(&path, metadata, Node::File(content))
        }
        EntryKind::CharDevice { major, minor } => {
            tree.add(&path, metadata, Node::CharDevice { major, minor })
        }
        EntryKind::BlockDevice { major, minor } => {
            tree.add(&path, metadata, Node::BlockDevice { major, minor })
        }
        EntryKind::Fifo => tree.add(&path, metadata, Node::Fifo),
    }
    .map_err(refused)
}

/// Applies `path` if it is a whiteout. Returns whether it was.
fn apply_whiteout(path: &EntryPath<'_>, tree: &mut Tree) -> Result<bool, EntryError> {
    let Some((parent, name)) = path.split() else { return Ok(false) };
    let kept_books = |name: &&[u8]| name.starts_with(BOOKKEEPING);
    if name == OPAQUE {
        tree.hide_contents(parent)?;
        return Ok(true);
    }
    if kept_books(&name) || parent.iter().any(kept_books) {
        return Ok(true);
    }
    if parent.iter().any(|component| component.starts_with(WHITEOUT)) {
        return Err(EntryError::InvalidWhiteout);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(false),
        Some(b"" | b"." | b"..") => Err(EntryError::InvalidWhiteout),
        Some(hidden) => {
            tree.hide(parent, hidden)?;
            Ok(true)
        }
    }
}

fn hard_link(path: &EntryPath<'_>, target: &[u8], tree: &mut Tree) -> Result<(), EntryError> {
    let target = EntryPath::parse(target).map_err(|error| match error {
        EntryError::OutsideRoot => EntryError::LinkOutsideRoot,
        other => other,
    })?;
    tree.add_hard_link(path, &target)
}

/// A symbolic link's target is data: it is stored unchanged, wherever it points.
fn symlink_target(target: Vec<u8>) -> Result<Node, EntryError> {
    if target.is_empty() {
        return Err(EntryError::EmptyTarget);
    }
    if target.contains(&0) {
        return Err(EntryError::NulInName);
    }
    if target.len() > PATH_MAX {
        return Err(EntryError::PathTooLong { length: target.len() });
    }
    Ok(Node::Symlink(target.into()))
}

/// Drops attributes of namespaces that EROFS lacks, as the usual tools do, and refuses more than an
/// inode can hold.
fn usable(attributes: Attributes) -> Result<Attributes, EntryError> {
    let mut size = 0_usize;
    let mut kept = Attributes::new();
    for (name, value) in attributes {
        if !super::erofs::holds_attribute(&name) {
            continue;
        }
        size = size.saturating_add(name.len()).saturating_add(value.len()).saturating_add(8);
        if size > MAX_ATTRIBUTES {
            return Err(EntryError::AttributesTooLarge { size, limit: MAX_ATTRIBUTES });
        }
        kept.insert(name, value);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
