//! Small packs of synthetic guests: a base, an image on it with a disk, and both in one archive.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use supermachine_formats::pack::{CHUNK_SIZE, Index, Layer, Place, Space};
use supermachine_formats::snapshot::arch::x86_64::baseline::Processor;
use supermachine_formats::snapshot::arch::x86_64::{Clock, RunState, State, Vcpu};
use supermachine_formats::snapshot::arch::{ArchState, Baseline, aarch64};
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_formats::snapshot::{
    Disk, HypervisorFamily, Machine, Snapshot, Stage, WorkingSet, Workload,
};
use supermachine_formats::{Digest, pack};
use supermachine_snapshots::pack::{
    ChunkWriter, Composition, Descriptor, Layout, MemoryChange, Pack,
};
use supermachine_vmm::arch::x86_64::reset_ioapic;
use supermachine_vmm::{MemoryFiles, boot_slots, mapped_disk, reset_serial};

/// Bytes of each machine's memory.
pub const MEMORY: u64 = 1 << 20;
/// Bytes of the image's disk.
pub const DISK: u64 = 2 << 20;
/// Bytes of a page.
pub const PAGE: usize = PAGE_SIZE as usize;
/// The slot of the disk.
const SLOT: u8 = 2;

/// A base and an image on it, with the contents of their memories and disk.
#[derive(Debug)]
pub struct Made {
    /// The manifest of the base.
    pub base: Descriptor,
    /// The manifest of the image.
    pub image: Descriptor,
    /// The base's memory.
    pub base_memory: Vec<u8>,
    /// The image's memory.
    pub image_memory: Vec<u8>,
    /// The image's disk.
    pub disk: Vec<u8>,
}

/// A page that compresses well and differs for each seed.
pub fn page(seed: u8) -> [u8; PAGE] {
    std::array::from_fn(|at| seed.wrapping_add((at / 512) as u8) | 1)
}

/// The state of an x86_64 machine that never ran.
pub fn x86_64_state() -> ArchState {
    ArchState::X86_64(State {
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
        clock: Clock { monotonic_ns: 1, realtime_ns: 2, tsc_khz: 3 },
    })
}

/// The state of an arm64 machine that never ran.
pub fn aarch64_state() -> ArchState {
    ArchState::Aarch64(aarch64::State {
        processor: aarch64::Processor::of(Baseline::Armv8_2),
        vcpus: vec![aarch64::Vcpu::after_reset(0, aarch64::Power::On)],
        gic: aarch64::Gic::reset(64),
        counter: aarch64::Counter::after_reset(),
    })
}

/// An x86_64 machine at this stage, on the snapshot `parent`.
pub fn snapshot(stage: Stage, parent: Option<Digest>, disks: &[u64]) -> Snapshot {
    snapshot_of(x86_64_state(), stage, parent, disks)
}

/// A machine with this state.
fn snapshot_of(arch: ArchState, stage: Stage, parent: Option<Digest>, disks: &[u64]) -> Snapshot {
    let mut slots = boot_slots();
    for ((number, slot), size) in (0..).zip(SLOT..).zip(disks) {
        slots[usize::from(slot)] = mapped_disk(slot, number, *size);
    }
    Snapshot {
        hypervisor: HypervisorFamily::Any,
        machine: Machine { stage, parent, memory_size: MEMORY, vcpus: 1 },
        workload: (stage == Stage::Image).then(|| Workload {
            reference: "example".into(),
            manifest: Digest::of(b"manifest"),
            argv: vec!["run".into()],
            ready: "auto".into(),
            exposed_ports: vec![80],
        }),
        stop: None,
        image_command: None,
        after_restore: None,
        arch,
        slots,
        serial: reset_serial(),
        disks: disks.iter().map(|size| Disk { size: *size }).collect(),
        working_set: WorkingSet::default(),
    }
}

/// Stores a snapshot whose memory is `before`, that of `parent`, with `pages` changed. Returns its
/// manifest and memory.
pub fn store(
    layout: &Layout,
    snapshot: &Snapshot,
    parent: Option<&Index>,
    before: &[u8],
    pages: &[(u64, [u8; PAGE])],
    disks: Option<Vec<&Index>>,
) -> (Descriptor, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(before, 0).unwrap();
    file.set_len(MEMORY).unwrap();
    let files = MemoryFiles::from(Arc::new(file));
    let composition = Composition {
        snapshot,
        parent,
        memory: MemoryChange {
            origin: Some(&files),
            pages: pages.iter().map(|(number, content)| (*number, content.as_slice())).collect(),
        },
        also: Vec::new(),
        disks,
        first_use: vec![Place { space: 0, place: 5 }, Place { space: 0, place: 0 }],
        level: 3,
    };
    let mut memory = before.to_vec();
    memory.resize(MEMORY as usize, 0);
    for (number, content) in pages {
        let at = *number as usize * PAGE;
        memory[at..at + PAGE].copy_from_slice(content);
    }
    (composition.store(layout).unwrap(), memory)
}

/// Stores a disk and returns an index with that disk only.
pub fn store_disk(layout: &Layout, content: &[u8]) -> Index {
    let mut writer = ChunkWriter::new(layout, 3).unwrap();
    let chunks = content.as_chunks::<{ CHUNK_SIZE as usize }>().0;
    let numbers = writer
        .add(chunks.len(), |number, chunk| {
            chunk.copy_from_slice(&chunks[number]);
            Ok(())
        })
        .unwrap();
    let layer = Layer::of((0..).zip(numbers).filter(|(_, number)| number.is_some()));
    Index {
        blobs: writer.finish().unwrap().into_iter().collect(),
        memory: Space::empty(pack::CHUNK_SIZE),
        disks: vec![Space { size: content.len() as u64, layers: vec![layer] }],
        first_use: Vec::new(),
    }
}

/// Stores base and image of an x86_64 machine in a folder, and names the image `example`.
pub fn make(dir: &Path) -> Made {
    make_of(x86_64_state, dir)
}

/// Stores base and image of a machine with this state in a folder, and names the image `example`.
pub fn make_of(arch: fn() -> ArchState, dir: &Path) -> Made {
    let layout = Layout::open(dir).unwrap();
    let state = snapshot_of(arch(), Stage::Base, None, &[]);
    // Chunks 0, 5 and 15; 5 and 15 are the same.
    let pages = [(0, page(1)), (3, page(2)), (80, page(3)), (240, page(3))];
    let (base, base_memory) = store(&layout, &state, None, &[], &pages, None);
    let source = layout.source().unwrap();
    let parent = Pack::open(&source, base.digest).unwrap();
    let mut disk = vec![0; DISK as usize];
    disk[..PAGE].copy_from_slice(&page(9));
    disk[DISK as usize - PAGE..].copy_from_slice(&page(10));
    let root = store_disk(&layout, &disk);
    let state = snapshot_of(arch(), Stage::Image, Some(base.digest), &[DISK]);
    // One page changed, one new, one rewritten with the same content, and a chunk of zeros.
    let pages = [(0, page(1)), (1, page(4)), (33, page(5)), (240, [0; PAGE])];
    let (image, image_memory) =
        store(&layout, &state, Some(&parent.index), &base_memory, &pages, Some(vec![&root]));
    layout.set_name("example", image).unwrap();
    Made { base, image, base_memory, image_memory, disk }
}

/// The archive of the layout in a folder, without its lock and temporary files.
pub fn archive(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |name: &str, path: &Path| tar_member(&mut out, name, &fs::read(path).unwrap());
    add("oci-layout", &dir.join("oci-layout"));
    add("index.json", &dir.join("index.json"));
    let blobs = dir.join("blobs/sha256");
    let mut names: Vec<String> = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        add(&format!("blobs/sha256/{name}"), &blobs.join(&name));
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn tar_member(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}
