//! Starting from a pack that was never expanded: its chunks, as a machine asks for them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::Error;
use crate::machine::{Chunks, Place};
use crate::pack::{ChunkReader, Pack};

/// The chunks of a pack.
pub(super) struct PackChunks {
    pack: Arc<Pack>,
    reader: ChunkReader,
    /// Each place that holds more than zeros, and the number of its chunk.
    numbers: HashMap<Place, u32>,
    /// Called when what is used first is in place.
    then: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for PackChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackChunks").field("pack", &self.pack.digest).finish_non_exhaustive()
    }
}

impl PackChunks {
    pub(super) fn new(pack: &Arc<Pack>, then: Box<dyn FnOnce() + Send>) -> Result<Self, Error> {
        let mut numbers = HashMap::new();
        for (index, space) in pack.index.spaces().enumerate() {
            let chunks = space.flattened(0).into_iter();
            numbers.extend(chunks.filter_map(|(place, number)| Some(((index, place), number?))));
        }
        let reader = ChunkReader::new(pack)?;
        Ok(Self { pack: Arc::clone(pack), reader, numbers, then: Some(then) })
    }
}

impl Chunks for PackChunks {
    fn chunk(&mut self, place: Place) -> io::Result<Option<&[u8]>> {
        match self.numbers.get(&place) {
            None => Ok(None),
            Some(number) => self.reader.read(*number).map(Some).map_err(io::Error::other),
        }
    }

    fn first_use(&self) -> Vec<Place> {
        let used = self.pack.index.first_use.iter();
        used.map(|used| (usize::from(used.space), used.place)).collect()
    }

    fn first_use_done(&mut self) {
        if let Some(then) = self.then.take() {
            then();
        }
    }
}
