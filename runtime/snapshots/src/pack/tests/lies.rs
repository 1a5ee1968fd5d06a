//! Packs with right digests and wrong contents.

use supermachine_formats::pack::{Blob, Chunk, Extent, Index, IndexError, Layer, MAX_STORED};
use supermachine_formats::snapshot::{Disk, SnapshotError, Stage};

use super::*;

/// A pack of parts that may disagree.
struct Forged {
    store: Store,
    state: Vec<u8>,
    index: Index,
    chunks: Option<Vec<Descriptor>>,
}

impl Forged {
    fn new() -> Self {
        let store = Store::new();
        let Pack { state, index, .. } = store.open().unwrap();
        Self { store, state, index, chunks: None }
    }

    fn open_with(
        &self,
        index: &[u8],
        change: impl FnOnce(&mut Manifest),
    ) -> Result<Pack, PackError> {
        let layout = self.store.layout();
        let described = |blob: &Blob| Descriptor { digest: blob.digest, size: blob.size() };
        let mut manifest = Manifest {
            config: layout.put(b"{}").unwrap(),
            state: layout.put(&self.state).unwrap(),
            index: layout.put(index).unwrap(),
            chunks: match &self.chunks {
                Some(chunks) => chunks.clone(),
                None => self.index.blobs.iter().map(described).collect(),
            },
        };
        change(&mut manifest);
        let digest = layout.put(&manifest.encode()).unwrap().digest;
        Pack::open(&self.store.source(), digest)
    }

    fn open(&self) -> Result<Pack, PackError> {
        self.open_with(&self.index.encode(), |_| ())
    }

    fn contradiction(&self) -> &'static str {
        match self.open() {
            Err(PackError::Inconsistent { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    /// Stores frames as the only blob of the only chunk of the memory.
    fn with_chunk(mut self, frame: &[u8], content: &[u8], stored: u32) -> Self {
        let digest = self.store.layout().put(frame).unwrap().digest;
        let chunk = Chunk { content: Digest::of(content), stored };
        self.index.blobs = vec![Blob { digest, chunks: vec![chunk] }];
        self.index.memory.layers = vec![Layer::of([(0, Some(0))])];
        self.index.disks[0].layers.clear();
        self
    }

    fn chunk_error(&self) -> &'static str {
        let pack = self.open().unwrap();
        match ChunkReader::new(&pack).unwrap().read(0) {
            Err(PackError::Chunk { what, offset: 0, blob }) => {
                assert_eq!(blob, pack.manifest.chunks[0].digest);
                what
            }
            other => panic!("{:?}", other.map(<[u8]>::len)),
        }
    }
}

fn compress(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 3).unwrap()
}

#[test]
fn sizes_that_differ_from_the_state_are_refused() {
    let mut forged = Forged::new();
    assert!(forged.open().is_ok());
    forged.index.memory.size += CHUNK_SIZE;
    assert_eq!(forged.contradiction(), "a memory size that differs between index and state");
    let disks = "disks that differ between index and state";
    let mut forged = Forged::new();
    forged.index.disks[0].size *= 2;
    assert_eq!(forged.contradiction(), disks);
    forged.index.disks.clear();
    assert_eq!(forged.contradiction(), disks);
    let mut forged = Forged::new();
    let mut snapshot = samples::snapshot(Stage::Image, None, &[samples::DISK]);
    snapshot.disks.push(Disk { size: samples::DISK });
    forged.state = snapshot.encode();
    assert_eq!(forged.contradiction(), disks);
}

#[test]
fn blobs_missing_from_the_manifest_are_refused() {
    let blobs = "blobs that differ between index and manifest";
    let mut forged = Forged::new();
    let all = forged.open().unwrap().manifest.chunks;
    let changes: [fn(&mut Vec<Descriptor>); 5] = [
        |chunks| chunks.truncate(1),
        |chunks| chunks.swap(0, 1),
        |chunks| chunks.push(chunks[0]),
        |chunks| chunks[1].digest = Digest::of(b"other"),
        |chunks| chunks[1].size += 1,
    ];
    for change in changes {
        let mut chunks = all.clone();
        change(&mut chunks);
        forged.chunks = Some(chunks);
        assert_eq!(forged.contradiction(), blobs);
    }
}

#[test]
fn blob_of_the_wrong_size_is_refused() {
    let mut forged = Forged::new();
    forged.index.blobs[0].chunks[0].stored += 1;
    match forged.open() {
        Err(PackError::Size { section: "chunks", expected, found, .. }) => {
            assert_eq!(expected, found + 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn index_that_points_outside_is_refused() {
    let mut forged = Forged::new();
    forged.index.memory.layers[1].extents.push(Extent { first: 16, count: 1, chunk: 0 });
    let error = forged.open().unwrap_err();
    assert!(matches!(error, PackError::Index { source: IndexError::Inconsistent { .. }, .. }));
    assert!(causes(&error).starts_with("index of snapshot sha256:"), "{}", causes(&error));
}

#[test]
fn newer_versions_and_needs_are_named() {
    let forged = Forged::new();
    let index_with = |at: usize, value| {
        let mut index = forged.index.encode();
        index[at] = value;
        forged.open_with(&index, |_| ())
    };
    match index_with(8, 9) {
        Err(PackError::Index { source: IndexError::Version { found: 9, .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
    match index_with(16, 2) {
        Err(PackError::Index { source: IndexError::Features { unknown: 2 }, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(index_with(24, 2).is_ok());
    let state_with = |at: usize, value| {
        let mut forged = Forged::new();
        forged.state[at] = value;
        forged.open().map(drop).unwrap_err()
    };
    match state_with(8, 9) {
        PackError::State { source: SnapshotError::Version { found: 9, .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    match state_with(16, 4) {
        PackError::State { source: SnapshotError::Features { unknown: 4 }, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn sizes_over_the_limits_are_refused_before_any_read() {
    let forged = Forged::new();
    for section in ["config", "state", "index"] {
        let error = forged.open_with(&forged.index.encode(), |manifest| {
            let part = match section {
                "config" => &mut manifest.config,
                "state" => &mut manifest.state,
                _ => &mut manifest.index,
            };
            part.size = u64::MAX;
        });
        match error {
            Err(PackError::TooLarge { section: told, size: u64::MAX, .. }) => {
                assert_eq!(told, section);
            }
            other => panic!("{other:?}"),
        }
    }
    // A sparse file can be larger than memory.
    let pack = forged.store.open().unwrap();
    let manifest = fs::File::options().write(true).open(forged.store.blob(pack.digest)).unwrap();
    manifest.set_len(1 << 40).unwrap();
    let error = forged.store.open().unwrap_err();
    assert!(matches!(error, PackError::TooLarge { section: "manifest", .. }), "{error:?}");
}

#[test]
fn malformed_manifest_is_refused() {
    let good = String::from_utf8(Forged::new().open().unwrap().manifest.encode()).unwrap();
    let refused = |from: &str, to: &str| {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        causes(&Manifest::decode(text.as_bytes()).unwrap_err())
    };
    assert!(Manifest::decode(good.as_bytes()).is_ok());
    let artifact = refused("vnd.supermachine.snapshot.v1\"", "vnd.example.other\"");
    assert_eq!(artifact, "not a snapshot but application/vnd.example.other");
    assert_eq!(refused("artifactType", "otherType"), "not a snapshot but an image");
    assert_eq!(refused("\"config\"", "\"other\""), "manifest has no config");
    assert_eq!(refused("\"layers\"", "\"other\""), "manifest has no layers");
    let no_descriptor = "manifest has a descriptor without digest and size";
    assert_eq!(refused("sha256:", "sha512:"), no_descriptor);
    assert_eq!(refused("\"size\":", "\"size\":-"), no_descriptor);
    assert_eq!(refused("\"size\":", "\"size\":1e9"), no_descriptor);
    let media = "manifest has a layer of another media type";
    assert_eq!(refused("snapshot.state.v1", "snapshot.state.v2"), media);
    assert_eq!(refused("state.v1", "index.v1"), "manifest has a second state or index");
    let state = good.find("{\"mediaType\":\"application/vnd.supermachine.snapshot.state").unwrap();
    let end = state + good[state..].find("},").unwrap() + 2;
    assert_eq!(refused(&good[state..end], ""), "manifest has no state");
    assert!(refused("{", "").starts_with("manifest is not JSON"));
    assert_eq!(causes(&Manifest::decode(b"[]").unwrap_err()), "manifest has no JSON object");
    let deep = "[".repeat(100_000);
    assert!(causes(&Manifest::decode(deep.as_bytes()).unwrap_err()).contains("recursion"));
}

#[test]
fn malformed_chunk_is_refused() {
    let chunk = [7; CHUNK_SIZE as usize];
    let good = compress(&chunk);
    let whole = Forged::new().with_chunk(&good, &chunk, good.len() as u32);
    let pack = whole.open().unwrap();
    assert_eq!(ChunkReader::new(&pack).unwrap().read(0).unwrap(), chunk);
    let error = ChunkReader::new(&pack).unwrap().read(1).map(drop).unwrap_err();
    assert!(matches!(error, PackError::Inconsistent { what: "a chunk that no blob has" }));
    let other_content = Forged::new().with_chunk(&good, b"other", good.len() as u32);
    assert_eq!(other_content.chunk_error(), "a chunk with another digest");
    let cannot = "a frame that cannot be decompressed";
    let cut = &good[..good.len() - 1];
    assert_eq!(Forged::new().with_chunk(cut, &chunk, cut.len() as u32).chunk_error(), cannot);
    let mut twice = good.clone();
    twice.extend_from_slice(&good);
    // Two frames are 128 KiB, which does not fit.
    assert_eq!(Forged::new().with_chunk(&twice, &chunk, twice.len() as u32).chunk_error(), cannot);
}

/// A small frame that decompresses to a gigabyte, whatever its header says.
#[test]
fn frame_of_the_wrong_size_is_refused_without_decompression() {
    let no_frame = "a frame with another header";
    let gigabyte = vec![0; 1 << 30];
    let bomb = compress(&gigabyte);
    drop(gigabyte);
    assert!(bomb.len() < MAX_STORED as usize, "{}", bomb.len());
    let size = bomb.len() as u32;
    assert_eq!(Forged::new().with_chunk(&bomb, b"", size).chunk_error(), no_frame);
    // With the header of a chunk in front of the bomb's blocks.
    let mut lying = FRAME_HEADER.to_vec();
    lying.extend_from_slice(&bomb[9..]);
    let size = lying.len() as u32;
    let error = Forged::new().with_chunk(&lying, b"", size).chunk_error();
    assert_eq!(error, "a frame that cannot be decompressed");
    for other in [&[5; 100][..], &[6; 1 << 17]] {
        let frame = compress(other);
        let forged = Forged::new().with_chunk(&frame, other, frame.len() as u32);
        assert_eq!(forged.chunk_error(), no_frame);
    }
}

#[test]
fn malformed_index_json_is_refused() {
    let store = Store::new();
    let path = store.path().join("index.json");
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        causes(&store.source().find(None).unwrap_err())
    };
    assert!(refused("").starts_with("index.json is not JSON"));
    assert_eq!(refused("{}"), "index.json has no list of manifests");
    assert_eq!(refused("{\"manifests\":{}}"), "index.json has no list of manifests");
    let no_descriptor = "index.json has a descriptor without digest and size";
    assert_eq!(refused("{\"manifests\":[7]}"), no_descriptor);
    let missing =
        format!("{{\"manifests\":[{{\"digest\":\"{}\",\"size\":1}}]}}", Digest::of(b"nowhere"));
    assert!(refused(&missing).starts_with("manifest is missing"));
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let error = store.source().find(None).unwrap_err();
    assert!(matches!(error, PackError::TooLarge { section: "index.json", .. }), "{error:?}");
}
