//! Composing a pack from a machine's state and pages.
//!
//! It stores new chunks, and lists the parent's. It sets no names. Invariant: a manifest is written
//! after everything that it lists.

use serde_json::{Value, json};
use supermachine_formats::Digest;
use supermachine_formats::pack::{Blob, CHUNK_SIZE, Index, Layer, MAX_LAYERS, Place, Space, ZERO};
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_formats::snapshot::{Snapshot, Workload};

use super::chunk_writer::ChunkWriter;
use super::layout::Layout;
use super::manifest::{Descriptor, Manifest};
use crate::error::PackError;
use supermachine_vmm::MemoryFiles;

const PAGE: usize = PAGE_SIZE as usize;
const CHUNK: usize = CHUNK_SIZE as usize;
const PAGES_A_CHUNK: u64 = CHUNK_SIZE / PAGE_SIZE;

/// A memory: its written pages over its origin.
#[derive(Debug)]
pub struct MemoryChange<'a> {
    /// The memory before the writes; `None`: all zeros.
    pub origin: Option<&'a MemoryFiles>,
    /// The number and content of each written page, in ascending order.
    pub pages: Vec<(u64, &'a [u8])>,
}

impl MemoryChange<'_> {
    /// The chunks that differ from the origin, in ascending order.
    fn places(&self) -> Result<Vec<u32>, PackError> {
        let mut places: Vec<u32> = Vec::new();
        let mut before = [0; PAGE];
        for (page, content) in &self.pages {
            let place = u32::try_from(page / PAGES_A_CHUNK)
                .map_err(|_| PackError::Inconsistent { what: "a page beyond any memory" })?;
            if places.last() == Some(&place) {
                continue;
            }
            self.read_before(*page, &mut before)?;
            if before != *content {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Reads the whole chunk at an index.
    fn read(&self, place: u32, chunk: &mut [u8; CHUNK]) -> Result<(), PackError> {
        let first = u64::from(place) * PAGES_A_CHUNK;
        let from = self.pages.partition_point(|(page, _)| *page < first);
        let mut written = self.pages.iter().skip(from).peekable();
        for (number, page) in (first..).zip(chunk.as_chunks_mut::<PAGE>().0) {
            match written.next_if(|(written, _)| *written == number) {
                Some((_, content)) if content.len() == PAGE => page.copy_from_slice(content),
                _ => self.read_before(number, page)?,
            }
        }
        Ok(())
    }

    fn read_before(&self, page: u64, content: &mut [u8; PAGE]) -> Result<(), PackError> {
        match self.origin {
            None => content.fill(0),
            Some(files) => files.read_page(page, content).map_err(|source| PackError::Io {
                operation: "read the memory behind",
                path: "page".into(),
                source,
            })?,
        }
        Ok(())
    }
}

/// The parts of a new pack.
#[derive(Debug)]
pub struct Composition<'a> {
    /// The state.
    pub snapshot: &'a Snapshot,
    /// The index of the parent. `None`: the pack has no parent.
    pub parent: Option<&'a Index>,
    /// The memory.
    pub memory: MemoryChange<'a>,
    /// Further chunks of the memory that are not zero, for a pack without a parent.
    pub also: Vec<u32>,
    /// The indexes of the machine's disks, in order. `None`: the parent's disks.
    pub disks: Option<Vec<&'a Index>>,
    /// The chunks of first use, in order.
    pub first_use: Vec<Place>,
    /// The zstd level.
    pub level: i32,
}

impl Composition<'_> {
    /// Stores the pack, and returns its manifest.
    ///
    /// # Errors
    /// A part cannot be read or written.
    pub fn store(&self, layout: &Layout) -> Result<Descriptor, PackError> {
        let mut index = BlobList::default();
        let mut layers = Vec::new();
        if let Some(parent) = self.parent {
            let start = index.import(parent)?;
            layers = parent.memory.layers.iter().map(|layer| start.renumber(layer)).collect();
        }
        if layers.len() + 1 >= MAX_LAYERS {
            layers = squash(self.snapshot.machine.memory_size, layers);
        }
        layers.push(self.store_memory(layout, &mut index)?);
        let disks = self.list_disks(&mut index)?;
        let memory = Space { size: self.snapshot.machine.memory_size, layers };
        let first_use = self.first_use.clone();
        let index = Index { blobs: index.into_blobs(), memory, disks, first_use };
        let encoded = index.encode();
        // A parent or a disk may come from another build, and an unreadable pack must not be
        // written.
        Index::decode(&encoded).map_err(|source| PackError::Composed { source })?;
        let chunks = index
            .blobs
            .iter()
            .map(|blob| Descriptor { digest: blob.digest, size: blob.size() })
            .collect();
        let config = config(self.snapshot).to_string();
        let manifest = Manifest {
            config: layout.put(config.as_bytes())?,
            state: layout.put(&self.snapshot.encode())?,
            index: layout.put(&encoded)?,
            chunks,
        };
        layout.put(&manifest.encode())
    }

    fn store_memory(&self, layout: &Layout, index: &mut BlobList) -> Result<Layer, PackError> {
        let mut places = self.memory.places()?;
        places.extend(&self.also);
        places.sort_unstable();
        places.dedup();
        // Chunks of first use come first, in their order.
        let rank: std::collections::HashMap<u32, usize> = self
            .first_use
            .iter()
            .enumerate()
            .filter(|(_, used)| used.space == 0)
            .map(|(rank, used)| (used.place, rank))
            .collect();
        places.sort_by_key(|place| rank.get(place).copied().unwrap_or(usize::MAX));
        let mut writer = ChunkWriter::new(layout, self.level)?;
        let numbers =
            writer.add(places.len(), |number, chunk| self.memory.read(places[number], chunk))?;
        let start = match writer.finish()? {
            Some(blob) => index.add(&blob)?,
            None => 0,
        };
        let mut chunks: Vec<(u32, Option<u32>)> = places
            .into_iter()
            .zip(numbers)
            .map(|(place, number)| (place, number.map(|number| start + number)))
            .filter(|(_, number)| number.is_some() || self.parent.is_some())
            .collect();
        chunks.sort_unstable();
        Ok(Layer::of(chunks))
    }

    fn list_disks(&self, index: &mut BlobList) -> Result<Vec<Space>, PackError> {
        let mut disks = Vec::new();
        let inherited = self.parent.into_iter().collect();
        for from in self.disks.as_ref().unwrap_or(&inherited) {
            let start = index.import(from)?;
            disks.extend(from.disks.iter().map(|disk| {
                let layers = disk.layers.iter().map(|layer| start.renumber(layer)).collect();
                Space { size: disk.size, layers }
            }));
        }
        Ok(disks)
    }
}

/// All layers but the first, merged into one: upper layers win.
fn squash(size: u64, mut layers: Vec<Layer>) -> Vec<Layer> {
    let behind = layers.drain(..1).next();
    let space = Space { size, layers };
    behind.into_iter().chain([space.flattened(0)]).collect()
}

/// The blobs of a new index, without duplicates.
#[derive(Debug, Default)]
pub struct BlobList {
    blobs: Vec<Blob>,
    /// The number of each blob's first chunk, and of the next blob's.
    starts: Vec<u32>,
    next: u32,
}

impl BlobList {
    /// The blobs, in the order of their chunks' numbers.
    #[must_use]
    pub fn into_blobs(self) -> Vec<Blob> {
        self.blobs
    }

    /// Adds a blob, unless it is listed. Returns the number of its first chunk.
    ///
    /// # Errors
    /// The number of chunks overflows.
    pub fn add(&mut self, blob: &Blob) -> Result<u32, PackError> {
        let known = self.blobs.iter().position(|found| found.digest == blob.digest);
        if let Some(start) = known.and_then(|at| self.starts.get(at)) {
            return Ok(*start);
        }
        let start = self.next;
        self.next = u32::try_from(blob.chunks.len())
            .ok()
            .and_then(|count| start.checked_add(count))
            .filter(|next| *next < ZERO)
            .ok_or(PackError::Inconsistent { what: "too many chunks" })?;
        self.blobs.push(blob.clone());
        self.starts.push(start);
        Ok(start)
    }

    /// Adds all blobs of an index.
    fn import(&mut self, index: &Index) -> Result<Renumbering, PackError> {
        let mut moves = Vec::with_capacity(index.blobs.len());
        let mut old = 0_u32;
        for blob in &index.blobs {
            moves.push((old, self.add(blob)?));
            old = old.saturating_add(u32::try_from(blob.chunks.len()).unwrap_or(u32::MAX));
        }
        Ok(Renumbering(moves))
    }
}

/// The old and the new number of each blob's first chunk.
struct Renumbering(Vec<(u32, u32)>);

impl Renumbering {
    fn renumber(&self, layer: &Layer) -> Layer {
        let moved = |number: u32| {
            let after = self.0.partition_point(|(old, _)| *old <= number);
            let found = after.checked_sub(1).and_then(|at| self.0.get(at));
            found.map_or(number, |(old, new)| new + (number - old))
        };
        Layer::of(layer.chunks().map(|(place, number)| (place, number.map(moved))))
    }
}

/// The configuration, for people and tools. Keys are in alphabetical order.
fn config(snapshot: &Snapshot) -> Value {
    let machine = &snapshot.machine;
    let workload = |workload: &Workload| {
        json!({
            "argv": workload.argv,
            "exposedPorts": workload.exposed_ports,
            "manifest": workload.manifest.to_string(),
            "ready": workload.ready,
            "reference": workload.reference,
        })
    };
    json!({
        "architecture": snapshot.arch.architecture().name(),
        "formatVersion": supermachine_formats::snapshot::FORMAT_VERSION,
        "hypervisor": snapshot.hypervisor.name(),
        "memorySize": machine.memory_size,
        "os": "linux",
        "parent": machine.parent.as_ref().map(Digest::to_string),
        "stage": machine.stage.name(),
        "vcpus": machine.vcpus,
        "workload": snapshot.workload.as_ref().map(workload),
    })
}
