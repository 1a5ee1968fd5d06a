//! Small snapshots of machines that never ran, and stores for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use supermachine_baker::Store;
use supermachine_formats::Digest;
use supermachine_formats::pack::{CHUNK_SIZE, Index, Layer, Space};
use supermachine_formats::snapshot::{
    Disk, HypervisorFamily, Machine, Snapshot, Stage, WorkingSet, Workload,
};
use supermachine_snapshots::pack::{
    ChunkWriter, Composition, Descriptor, Layout, Manifest, MemoryChange, Pack,
};
use supermachine_vmm::{boot_slots, reset_serial};
use tempfile::TempDir;

use crate::packs;

const CHUNK: usize = CHUNK_SIZE as usize;
const PAGE: usize = 4096;

/// A store with its own cache, in a temporary folder.
#[derive(Debug)]
pub struct TestStore {
    /// The folder of both.
    pub dir: TempDir,
    /// The store.
    pub store: Store,
}

/// The content of a snapshot.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its stage.
    pub stage: Stage,
    /// The manifest of its parent.
    pub parent: Option<Digest>,
    /// The size of its memory in chunks.
    pub chunks: u64,
    /// The chunks of its memory: place and seed of each.
    pub memory: BTreeMap<u32, u64>,
    /// The seeds of its disk's chunks.
    pub disk: Vec<u64>,
}

impl Sample {
    /// A memory of 1 MiB with three chunks made from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            stage: Stage::Image,
            parent: None,
            chunks: 16,
            memory: (0..3).map(|place| (place * 2, seed * 100 + u64::from(place))).collect(),
            disk: Vec::new(),
        }
    }

    /// With a disk of chunks made from these seeds.
    #[must_use]
    pub fn disk(mut self, seeds: &[u64]) -> Self {
        self.disk = seeds.to_vec();
        self
    }

    /// On this parent.
    #[must_use]
    pub fn on(mut self, parent: Digest) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Of this stage.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// With so many chunks that each operation takes a while.
    #[must_use]
    pub fn large(mut self, seed: u64, chunks: u32) -> Self {
        self.chunks = u64::from(chunks).next_multiple_of(16);
        self.memory = (0..chunks).map(|place| (place, seed << 32 | u64::from(place))).collect();
        self
    }
}

impl Default for TestStore {
    fn default() -> Self {
        Self::new()
    }
}

impl TestStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// A store in this folder.
    #[must_use]
    pub fn in_dir(dir: TempDir) -> Self {
        let store = Store::open_with_cache(dir.path().join("store"), dir.path().join("cache"));
        Self { store: store.unwrap(), dir }
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stores a snapshot without a name.
    pub fn put(&self, sample: &Sample) -> Descriptor {
        put(self.store.layout(), sample)
    }

    /// Stores a snapshot under a name.
    pub fn add(&self, name: &str, sample: &Sample) -> Digest {
        let manifest = self.put(sample);
        self.store.layout().set_name(name, manifest).unwrap();
        manifest.digest
    }

    /// Records that these inputs gave this digest, as a bake does.
    pub fn key(&self, input: &[u8], made: Digest) -> PathBuf {
        let name = format!("keys/{}", Digest::of(input).hex());
        self.store.layout().replace(&name, format!("{made}\n").as_bytes()).unwrap();
        self.store.dir().join(name)
    }

    /// The names of all blobs.
    #[must_use]
    pub fn blobs(&self) -> Vec<String> {
        names(&self.store.dir().join("blobs/sha256"))
    }

    /// The file of a blob.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.store.layout().blob_path(digest)
    }

    /// Reads a manifest.
    #[must_use]
    pub fn manifest(&self, digest: Digest) -> Manifest {
        Manifest::read(&self.store.layout().source().unwrap(), digest).unwrap()
    }

    /// Asserts that every named snapshot is whole.
    #[track_caller]
    pub fn is_clean(&self) {
        for name in self.store.names().unwrap() {
            let verified = self.store.verify(&name).unwrap();
            assert!(verified.problems.is_empty(), "{name}: {:?}", verified.problems);
        }
    }
}

/// Stores a snapshot without a name.
pub fn put(layout: &Layout, sample: &Sample) -> Descriptor {
    let chunks: Vec<(u32, Vec<u8>)> =
        sample.memory.iter().map(|(place, seed)| (*place, chunk(*seed))).collect();
    let pages = chunks.iter().flat_map(|(place, chunk)| {
        let first = u64::from(*place) * (CHUNK / PAGE) as u64;
        (first..).zip(chunk.chunks_exact(PAGE))
    });
    let behind = sample.parent.map(|digest| Pack::open(&layout.source().unwrap(), digest).unwrap());
    let disk = (!sample.disk.is_empty()).then(|| disk(layout, &sample.disk));
    let composition = Composition {
        snapshot: &snapshot(sample),
        parent: behind.as_ref().map(|pack| &pack.index),
        memory: MemoryChange { origin: None, pages: pages.collect() },
        also: Vec::new(),
        disks: Some(disk.iter().collect()),
        first_use: Vec::new(),
        level: 1,
    };
    composition.store(layout).unwrap()
}

/// Stores a disk's chunks and returns an index with that disk only.
pub fn disk(layout: &Layout, seeds: &[u64]) -> Index {
    let mut writer = ChunkWriter::new(layout, 1).unwrap();
    let read = |number: usize, content: &mut [u8; CHUNK]| {
        content.copy_from_slice(&chunk(seeds[number]));
        Ok(())
    };
    let numbers = writer.add(seeds.len(), read).unwrap();
    let layer = Layer::of((0..).zip(numbers));
    Index {
        blobs: writer.finish().unwrap().into_iter().collect(),
        memory: Space::empty(CHUNK_SIZE),
        disks: vec![Space { size: seeds.len() as u64 * CHUNK_SIZE, layers: vec![layer] }],
        first_use: Vec::new(),
    }
}

fn snapshot(sample: &Sample) -> Snapshot {
    let memory_size = sample.chunks * CHUNK_SIZE;
    let disk = Disk { size: sample.disk.len() as u64 * CHUNK_SIZE };
    Snapshot {
        hypervisor: HypervisorFamily::Kvm,
        machine: Machine { stage: sample.stage, parent: sample.parent, memory_size, vcpus: 1 },
        workload: Some(Workload {
            reference: "registry.example/sample:1".into(),
            manifest: Digest::of(b"image"),
            argv: vec!["/bin/sample".into()],
            ready: "auto".into(),
            exposed_ports: vec![80],
        }),
        stop: None,
        image_command: None,
        after_restore: None,
        arch: packs::x86_64_state(),
        slots: boot_slots(),
        serial: reset_serial(),
        disks: (!sample.disk.is_empty()).then_some(disk).into_iter().collect(),
        working_set: WorkingSet::default(),
    }
}

/// 64 KiB that do not compress, made from this seed.
#[must_use]
pub fn chunk(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(CHUNK);
    while content.len() < CHUNK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content
}

/// The sorted names of a folder's entries; empty if the folder does not exist.
#[must_use]
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
