//! Packs of synthetic guests: written packs are readable, and wrong ones are refused.

mod archive;
mod damage;
mod lies;
mod writing;

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use supermachine_formats::Digest;
use supermachine_formats::pack::{CHUNK_SIZE, Space};
use supermachine_formats::snapshot::arch::ArchState;
use tempfile::TempDir;

use super::*;
use crate::samples::{self, Made};

/// A folder with the sample packs.
pub(super) struct Store {
    dir: TempDir,
    pub(super) made: Made,
}

impl Store {
    pub(super) fn new() -> Self {
        Self::of(samples::x86_64_state)
    }

    /// With the state of another architecture.
    pub(super) fn of(arch: fn() -> ArchState) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = samples::make_of(arch, &dir.path().join("store"));
        Self { dir, made }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::open(self.path()).unwrap()
    }

    pub(super) fn source(&self) -> Source {
        Source::open(&self.path()).unwrap()
    }

    pub(super) fn blob(&self, digest: Digest) -> PathBuf {
        self.layout().blob_path(digest)
    }

    pub(super) fn open(&self) -> Result<Pack, PackError> {
        Pack::open(&self.source(), self.made.image.digest)
    }

    /// The same as a file.
    pub(super) fn archive(&self) -> PathBuf {
        let path = self.dir.path().join("pack.tar");
        fs::write(&path, samples::archive(&self.path())).unwrap();
        path
    }
}

/// The content of a space, with every chunk checked.
pub(super) fn content(pack: &Pack, space: &Space) -> Result<Vec<u8>, PackError> {
    let mut reader = ChunkReader::new(pack)?;
    let mut content = vec![0; space.size as usize];
    for (place, number) in space.flattened(0).chunks() {
        let at = place as usize * CHUNK_SIZE as usize;
        if let Some(number) = number {
            content[at..at + CHUNK_SIZE as usize].copy_from_slice(reader.read(number)?);
        }
    }
    Ok(content)
}

/// Reads every chunk, including those under other layers.
pub(super) fn read_every_chunk(pack: &Pack) -> Result<(), PackError> {
    let mut reader = ChunkReader::new(pack)?;
    (0..pack.index.chunk_count() as u32).try_for_each(|number| reader.read(number).map(drop))
}

/// An error with its causes.
pub(super) fn causes(error: &PackError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn assert_is_the_sample(pack: &Pack, made: &Made) {
    assert_eq!(pack.digest, made.image.digest);
    assert_eq!(pack.snapshot.machine.parent, Some(made.base.digest));
    assert!(content(pack, &pack.index.memory).unwrap() == made.image_memory, "other memory");
    assert!(content(pack, &pack.index.disks[0]).unwrap() == made.disk, "another disk");
}

#[test]
fn folder_and_archive_return_what_was_stored() {
    let store = Store::new();
    for path in [store.path(), store.archive()] {
        assert_is_the_sample(&Pack::open_at(&path, None).unwrap(), &store.made);
        assert_is_the_sample(&Pack::open_at(&path, Some("example")).unwrap(), &store.made);
        let source = Source::open(&path).unwrap();
        let base = Pack::open(&source, store.made.base.digest).unwrap();
        assert!(content(&base, &base.index.memory).unwrap() == store.made.base_memory);
    }
}

#[test]
fn child_lists_its_parents_blobs_and_adds_only_changes() {
    let store = Store::new();
    let base = Pack::open(&store.source(), store.made.base.digest).unwrap();
    let image = store.open().unwrap();
    assert_eq!(image.index.memory.layers[0], base.index.memory.layers[0]);
    assert!(image.manifest.chunks.starts_with(&base.manifest.chunks));
    // A page rewritten with the same content is not a change; a zero chunk is not stored.
    let own: Vec<_> = image.index.memory.layers[1].chunks().collect();
    assert_eq!(own.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2, 15]);
    assert_eq!(own[2].1, None);
    // The two equal chunks of the base are stored once, at the place of the first use.
    assert_eq!(base.index.blobs[0].chunks.len(), 2);
    assert_eq!(base.index.memory.layers[0].number(5), Some(0));
    assert_eq!(base.index.memory.layers[0].number(15), Some(0));
    assert_eq!(image.index.disks[0].flattened(0).extents.len(), 2);
}

#[test]
fn only_or_named_snapshot_is_found() {
    let store = Store::new();
    let no_such = store.source().find(Some("other")).unwrap_err();
    assert!(no_such.to_string().starts_with("no snapshot other in "), "{no_such}");
    store.layout().set_name("base", store.made.base).unwrap();
    assert_eq!(store.source().find(Some("base")).unwrap(), store.made.base.digest);
    match store.source().find(None) {
        Err(PackError::Ambiguous { count: 2, path }) => assert_eq!(path, store.path()),
        other => panic!("{other:?}"),
    }
    assert!(store.layout().remove_name("base").unwrap());
    assert!(!store.layout().remove_name("base").unwrap());
    assert!(store.layout().remove_name("example").unwrap());
    let none = store.source().find(None).unwrap_err();
    assert!(matches!(none, PackError::NotAPack { what: "it holds no snapshot", .. }), "{none:?}");
}

#[test]
fn non_pack_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Pack::open_at(path, None).map(drop).unwrap_err();
    let missing = refused(&dir.path().join("none"));
    assert!(matches!(missing, PackError::Missing { .. }), "{missing:?}");
    let empty = refused(dir.path());
    assert!(matches!(empty, PackError::NotAPack { what: "it has no index.json", .. }), "{empty:?}");
    let file = dir.path().join("file");
    for text in [&b""[..], &[b'x'; 511], &[b'x'; 512], &[b'x'; 5000]] {
        fs::write(&file, text).unwrap();
        let error = refused(&file);
        assert!(matches!(error, PackError::Archive { .. }), "{error:?}");
    }
    fs::write(&file, [0; 1024]).unwrap();
    let error = refused(&file);
    assert!(matches!(error, PackError::NotAPack { what: "it has no index.json", .. }), "{error:?}");
    // Reading a pipe would block forever.
    let pipe = dir.path().join("pipe");
    let status = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(status.success());
    assert!(matches!(refused(&pipe), PackError::NotAPack { .. }));
    let store = Store::new();
    let state = store.blob(store.open().unwrap().manifest.state.digest);
    fs::remove_file(&state).unwrap();
    fs::rename(&pipe, &state).unwrap();
    let error = store.open().unwrap_err();
    assert!(matches!(&error, PackError::Io { path, .. } if *path == state), "{error:?}");
}
