//! Starting from a pack without a mapped form: its chunks, on demand.

use std::io;
use std::sync::Arc;

use supermachine_formats::pack::Layer;

use crate::error::Error;
use crate::pack::{ChunkReader, Pack};
use supermachine_vmm::{ChunkAddress, Chunks};

/// The chunks of a pack, read on demand.
pub struct PackChunks {
    pack: Arc<Pack>,
    reader: ChunkReader,
    /// The chunks of each space.
    spaces: Arc<[Layer]>,
    /// Called once the chunks of first use are in place.
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for PackChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackChunks").field("pack", &self.pack.digest).finish_non_exhaustive()
    }
}

impl PackChunks {
    /// Opens the chunks of `pack`. `then` is called once the chunks of first use are in place.
    ///
    /// # Errors
    /// The pack's blobs cannot be opened.
    pub fn new(pack: &Arc<Pack>, then: Box<dyn FnOnce() + Send>) -> Result<Self, Error> {
        let spaces: Vec<_> = pack.index.spaces().map(|space| space.flattened(0)).collect();
        let reader = ChunkReader::new(pack)?;
        let (pack, spaces) = (Arc::clone(pack), spaces.into());
        Ok(Self { pack, reader, spaces, then: Some(then) })
    }
}

impl Chunks for PackChunks {
    fn chunk(&mut self, place: ChunkAddress) -> io::Result<Option<&[u8]>> {
        let (space, place) = place;
        match self.spaces.get(space).and_then(|chunks| chunks.number(place)) {
            None => Ok(None),
            Some(number) => self.reader.read(number).map(Some).map_err(io::Error::other),
        }
    }

    fn first_use(&self) -> Vec<ChunkAddress> {
        let used = self.pack.index.first_use.iter();
        used.map(|used| (usize::from(used.space), used.place)).collect()
    }

    fn another(&self) -> Option<Box<dyn Chunks>> {
        // Without a descriptor for it, fewer threads do the work.
        let reader = self.reader.another().ok()?;
        let (pack, spaces) = (Arc::clone(&self.pack), Arc::clone(&self.spaces));
        Some(Box::new(Self { pack, reader, spaces, then: None }))
    }

    fn first_use_done(&mut self) {
        if let Some(then) = self.then.take() {
            then();
        }
    }
}
