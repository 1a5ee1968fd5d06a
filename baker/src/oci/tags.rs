//! What tags stood for when they were last resolved, so that images can be used offline.
//!
//! Owns `refs/` in the cache: one small file for each reference, named by the reference's
//! digest. A note is a hint, not a truth: the blob that it names is verified on its own.

use std::fs;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use supermachine_formats::Digest;

use super::blobs::{BlobStore, persist};
use super::error::{Document, Error};

/// The most bytes a note has.
const MAX_NOTE: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Note {
    reference: String,
    digest: String,
}

/// Notes that `reference` stands for the manifest or index `digest`.
pub(crate) fn remember(blobs: &BlobStore, reference: &str, digest: Digest) -> Result<(), Error> {
    let note = Note { reference: reference.to_owned(), digest: digest.to_string() };
    let path = path(blobs, reference);
    let folder = blobs.dir().join("refs");
    fs::create_dir_all(&folder).map_err(Error::io("create", folder))?;
    let mut file = blobs.temp_file()?;
    serde_json::to_writer(&mut file, &note)
        .map_err(io::Error::from)
        .and_then(|()| file.flush())
        .map_err(Error::io("write", &path))?;
    persist(file, &path)
}

/// What `reference` last stood for, if that was noted.
pub(crate) fn recall(blobs: &BlobStore, reference: &str) -> Result<Option<Digest>, Error> {
    let path = path(blobs, reference);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_NOTE).read_to_end(&mut text).map_err(Error::io("read", path))?;
    let note: Note = serde_json::from_slice(&text).map_err(|source| Error::InvalidDocument {
        document: Document::Tag,
        digest: Digest::of(&text),
        source,
    })?;
    Ok((note.reference == reference).then(|| note.digest.parse().ok()).flatten())
}

fn path(blobs: &BlobStore, reference: &str) -> std::path::PathBuf {
    blobs.dir().join("refs").join(Digest::of(reference.as_bytes()).hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_remembered_is_recalled_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        assert_eq!(recall(&blobs, "a:b").unwrap(), None);
        for content in [b"1", b"2"] {
            remember(&blobs, "a:b", Digest::of(content)).unwrap();
            assert_eq!(recall(&blobs, "a:b").unwrap(), Some(Digest::of(content)));
        }
        assert_eq!(recall(&blobs, "a:c").unwrap(), None);
    }

    #[test]
    fn tag_note_that_is_damaged_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        remember(&blobs, "a:b", Digest::of(b"1")).unwrap();
        fs::write(path(&blobs, "a:b"), "{").unwrap();
        assert!(matches!(
            recall(&blobs, "a:b"),
            Err(Error::InvalidDocument { document: Document::Tag, .. })
        ));
    }
}
