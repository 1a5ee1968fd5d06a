//! Images in memory: the state of a running machine, from which forks of it start.
//!
//! A fork's image is that of its machine with an overlay in memory in front. It stands for the same
//! snapshot of the same store: a snapshot of a fork is a child of that one, and holds what was
//! written before the fork as well.

use std::io;
use std::sync::{Arc, OnceLock};

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_snapshots::mapped::Mapped;
use supermachine_vmm::{DirtyPages, MemoryFiles, Overlay};

use super::{Image, Inner};
use crate::Error;
use crate::error::HostError;

const PAGE: usize = PAGE_SIZE as usize;

/// A page's number and content.
pub(crate) type NumberedPage = (u64, Box<[u8; PAGE]>);

impl Image {
    /// The image of a machine that started from this one, in this state, with these pages written.
    pub(crate) fn forked(&self, snapshot: Snapshot, written: &DirtyPages) -> Result<Self, Error> {
        let mut memory = self.stored_memory()?;
        let size = snapshot.machine.memory_size;
        memory
            .overlays
            .push(Overlay::of_pages(written, self.fork_overlay(), &memory, size).map_err(failed)?);
        let mapped = Mapped { memory, disks: self.mapped()?.disks.clone() };
        let inner = Inner {
            digest: self.inner.digest,
            snapshot: Arc::new(snapshot),
            source: self.inner.source.clone(),
            form: self.inner.form.clone(),
            mapped: OnceLock::from(mapped),
            pack: self.inner.pack.clone(),
            is_expanding: false.into(),
            begun: OnceLock::new(),
            is_fork: true,
        };
        Ok(Self { inner: Arc::new(inner), attached: Arc::default() })
    }

    /// The memory of the stored snapshot that this image stands for.
    pub(crate) fn stored_memory(&self) -> Result<MemoryFiles, Error> {
        let mut memory = self.mapped()?.memory.clone();
        if self.inner.is_fork {
            memory.overlays.pop();
        }
        Ok(memory)
    }

    /// The pages in which this image differs from the stored snapshot, with their numbers, in rising
    /// order.
    pub(crate) fn forked_pages(&self) -> Result<Vec<NumberedPage>, Error> {
        let Some(overlay) = self.fork_overlay() else { return Ok(Vec::new()) };
        let files = MemoryFiles::from(Arc::clone(&overlay.file));
        let pages = overlay.runs.iter().flat_map(|run| run.first..run.end());
        let read = |page| {
            let mut content = Box::new([0; PAGE]);
            files.read_page(page, &mut content)?;
            Ok((page, content))
        };
        pages.map(read).collect::<io::Result<_>>().map_err(failed)
    }

    /// The overlay of a fork, in front of all others.
    fn fork_overlay(&self) -> Option<&Overlay> {
        let mapped = self.inner.mapped.get().filter(|_| self.inner.is_fork)?;
        mapped.memory.overlays.last()
    }
}

fn failed(source: io::Error) -> Error {
    HostError::ForkMemory { source }.into()
}
