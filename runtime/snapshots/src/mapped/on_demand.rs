//! Starting from a pack without a mapped form: its chunks, on demand.

use std::io;
use std::sync::Arc;

use supermachine_formats::pack::{Index, Layer};

use crate::error::Error;
use crate::pack::{BlobFile, ChunkReader};
use supermachine_vmm::{ChunkAddress, Chunks};

/// The chunks of a pack, read on demand.
pub struct PackChunks {
    reader: ChunkReader,
    /// The chunks of each space.
    spaces: Arc<[Layer]>,
    first_use: Arc<[ChunkAddress]>,
    /// Called once the chunks of first use are in place.
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for PackChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackChunks").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl PackChunks {
    /// The chunks of an index, in its blobs. `then` is called once the chunks of first use are in
    /// place.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(
        index: &Index,
        blobs: &[BlobFile],
        then: Box<dyn FnOnce() + Send>,
    ) -> Result<Self, Error> {
        let reader = ChunkReader::of_blobs(index, blobs)?;
        let spaces: Vec<_> = index.spaces().map(|space| space.flattened(0)).collect();
        let first_use = index.first_use.iter();
        let first_use = first_use.map(|used| (usize::from(used.space), used.place)).collect();
        Ok(Self { reader, spaces: spaces.into(), first_use, then: Some(then) })
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
        self.first_use.to_vec()
    }

    fn another(&self) -> Option<Box<dyn Chunks>> {
        // Without memory for it, fewer threads do the work.
        let reader = self.reader.another().ok()?;
        let (spaces, first_use) = (Arc::clone(&self.spaces), Arc::clone(&self.first_use));
        Some(Box::new(Self { reader, spaces, first_use, then: None }))
    }

    fn first_use_done(&mut self) {
        if let Some(then) = self.then.take() {
            then();
        }
    }
}
