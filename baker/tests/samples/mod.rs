//! Small snapshots that no machine was ever run for, and stores to keep them in.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use supermachine_baker::Store;
use supermachine_formats::Digest;
use supermachine_formats::pack::{CHUNK_SIZE, Index, Layer, Space};
use supermachine_formats::snapshot::arch::x86_64::{Clock, RunState, State, Vcpu};
use supermachine_formats::snapshot::arch::{Baseline, Processor};
use supermachine_formats::snapshot::{
    Architecture, Disk, HypervisorFamily, Machine, Snapshot, Stage, WorkingSet, Workload,
};
use supermachine_snapshots::pack::{
    ChunkWriter, Composition, Descriptor, Manifest, MemoryChange, Pack,
};
use supermachine_vmm::{boot_slots, reset_ioapic, reset_serial};
use tempfile::TempDir;

const CHUNK: usize = CHUNK_SIZE as usize;
const PAGE: usize = 4096;

/// A store with its own cache, and snapshots for it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

/// What a snapshot holds.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) stage: Stage,
    pub(crate) parent: Option<Digest>,
    /// The memory, in chunks.
    pub(crate) chunks: u64,
    /// Places in memory, and the seeds of what is there.
    pub(crate) memory: BTreeMap<u32, u64>,
    /// The seeds of the disk's chunks.
    pub(crate) disk: Vec<u64>,
}

impl Sample {
    /// A memory of 1 MiB with three chunks in it, made from this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            stage: Stage::Image,
            parent: None,
            chunks: 16,
            memory: (0..3).map(|place| (place * 2, seed * 100 + u64::from(place))).collect(),
            disk: Vec::new(),
        }
    }

    pub(crate) fn disk(mut self, seeds: &[u64]) -> Self {
        self.disk = seeds.to_vec();
        self
    }

    pub(crate) fn on(mut self, parent: Digest) -> Self {
        self.parent = Some(parent);
        self
    }

    pub(crate) fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// With so many chunks that it takes a while to do anything with it.
    pub(crate) fn large(mut self, seed: u64, chunks: u32) -> Self {
        self.chunks = u64::from(chunks).next_multiple_of(16);
        self.memory = (0..chunks).map(|place| (place, seed << 32 | u64::from(place))).collect();
        self
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_dir(dir: TempDir) -> Self {
        let store = Store::open_with_cache(dir.path().join("store"), dir.path().join("cache"));
        Self { store: store.unwrap(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stores a snapshot without a name.
    pub(crate) fn put(&self, sample: &Sample) -> Descriptor {
        put(&self.store, sample)
    }

    /// Stores a snapshot under a name.
    pub(crate) fn add(&self, name: &str, sample: &Sample) -> Digest {
        let manifest = self.put(sample);
        self.store.layout().set_name(name, manifest).unwrap();
        manifest.digest
    }

    /// Notes that some inputs gave what has this digest, as a bake does.
    pub(crate) fn key(&self, input: &[u8], made: Digest) -> PathBuf {
        let name = format!("keys/{}", Digest::of(input).hex());
        self.store.layout().replace(&name, format!("{made}\n").as_bytes()).unwrap();
        self.store.dir().join(name)
    }

    /// The names of all blobs.
    pub(crate) fn blobs(&self) -> Vec<String> {
        names(&self.store.dir().join("blobs/sha256"))
    }

    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.store.layout().blob_path(digest)
    }

    pub(crate) fn manifest(&self, digest: Digest) -> Manifest {
        Manifest::read(&self.store.layout().source().unwrap(), digest).unwrap()
    }

    /// That everything with a name is whole.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        for name in self.store.names().unwrap() {
            let verified = self.store.verify(&name).unwrap();
            assert!(verified.problems.is_empty(), "{name}: {:?}", verified.problems);
        }
    }
}

/// Stores a snapshot without a name.
pub(crate) fn put(store: &Store, sample: &Sample) -> Descriptor {
    let layout = store.layout();
    let chunks: Vec<(u32, Vec<u8>)> =
        sample.memory.iter().map(|(place, seed)| (*place, chunk(*seed))).collect();
    let pages = chunks.iter().flat_map(|(place, chunk)| {
        let first = u64::from(*place) * (CHUNK / PAGE) as u64;
        (first..).zip(chunk.chunks_exact(PAGE))
    });
    let behind = sample.parent.map(|digest| Pack::open(&layout.source().unwrap(), digest).unwrap());
    let disk = (!sample.disk.is_empty()).then(|| disk(store, &sample.disk));
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

/// Stores a disk's chunks; gives an index with that disk alone.
pub(crate) fn disk(store: &Store, seeds: &[u64]) -> Index {
    let mut writer = ChunkWriter::new(store.layout(), 1).unwrap();
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
        architecture: Architecture::X86_64,
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
        arch: State {
            processor: Processor::of(Baseline::V3),
            vcpus: vec![Vcpu {
                cpuid: Vec::new(),
                registers: None,
                special: None,
                run_state: RunState::Running,
                lapic: None,
                xsave: None,
                xcr0: None,
                debug: None,
                events: None,
                msrs: Vec::new(),
            }],
            ioapic: reset_ioapic(),
            clock: Clock { monotonic_ns: 0, realtime_ns: 0, tsc_khz: 0 },
        },
        slots: boot_slots(),
        serial: reset_serial(),
        disks: (!sample.disk.is_empty()).then_some(disk).into_iter().collect(),
        working_set: WorkingSet::default(),
    }
}

/// 64 KiB that do not compress, the same for the same seed.
pub(crate) fn chunk(seed: u64) -> Vec<u8> {
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

/// The names of a folder's entries, sorted; none if it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
