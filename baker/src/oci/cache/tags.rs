//! The last known digests of tags, for offline use.
//!
//! Owns `refs/` in the cache: one small file per reference, named by the digest of its text. It is a
//! hint: the blob that it names is verified separately.

use std::fs;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use supermachine_formats::Digest;

use super::super::error::{Document, Error};
use super::blobs::BlobStore;

/// The most bytes of a note.
const MAX_NOTE: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct TagRecord {
    reference: String,
    digest: String,
}

/// Records that `reference` resolved to the manifest or index `digest`.
pub(crate) fn remember(blobs: &BlobStore, reference: &str, digest: Digest) -> Result<(), Error> {
    let note = TagRecord { reference: reference.to_owned(), digest: digest.to_string() };
    let folder = blobs.dir().join("refs");
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let json = serde_json::to_vec(&note).map_err(io::Error::from);
    let json = json.map_err(Error::io("write a note in", folder))?;
    blobs.replace(&name(reference), &json)
}

/// The last recorded digest of `reference`.
pub(crate) fn recall(blobs: &BlobStore, reference: &str) -> Result<Option<Digest>, Error> {
    let path = path(blobs, reference);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_NOTE).read_to_end(&mut text).map_err(Error::io("read", path))?;
    let note: TagRecord = serde_json::from_slice(&text).map_err(|source| {
        Error::InvalidDocument { document: Document::Tag, digest: Digest::of(&text), source }
    })?;
    Ok((note.reference == reference).then(|| note.digest.parse().ok()).flatten())
}

fn path(blobs: &BlobStore, reference: &str) -> std::path::PathBuf {
    blobs.dir().join(name(reference))
}

fn name(reference: &str) -> String {
    format!("refs/{}", Digest::of(reference.as_bytes()).hex())
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
