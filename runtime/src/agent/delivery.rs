//! What comes of a request that moves bytes one way: a file or an archive. No I/O here: whoever
//! drives a [`Transfer`](super::Transfer) reads for it.

use std::io;

use supermachine_formats::wire::{Input, MAX_CHUNK, Message, Reply, Request};

use super::{Backlog, End, Frames, frame};
use crate::Error;

/// What came, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    frames: Frames,
    /// Bytes that were not read yet.
    data: Backlog,
    end: Option<Result<(), End>>,
}

impl Delivery {
    /// Takes in what `read` puts into the space that it is given; gives how much that was.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.frames.fill(read)
    }

    /// Ends it, unless it has ended.
    pub(crate) fn fail(&mut self, end: End) {
        self.end.get_or_insert(Err(end));
    }

    /// The next bytes: how many, or none at the end. Not known before more has come.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Option<Result<Option<usize>, End>> {
        if !self.has_data() {
            return Some(self.end.clone()?.map(|()| None));
        }
        Some(Ok(Some(self.data.read(space))))
    }

    /// The answer to what was sent. Not known before more has come.
    pub(crate) fn answer(&mut self) -> Option<Result<(), End>> {
        if self.has_data() {
            return Some(Err(End::Unexpected { request: "write" }));
        }
        self.end.clone()
    }

    /// Whether there is data, of this frame or the next.
    fn has_data(&mut self) -> bool {
        while self.data.is_empty() && self.end.is_none() {
            match self.frames.next::<Reply>() {
                Ok(Some(Reply::Data(bytes))) => self.data = Backlog::of(bytes),
                Ok(Some(Reply::Done)) => self.end = Some(Ok(())),
                Ok(Some(Reply::Failed(failure))) => self.end = Some(Err(End::Agent(failure))),
                Ok(Some(_)) => self.end = Some(Err(End::Unexpected { request: "file" })),
                Ok(None) => return false,
                Err(source) => self.end = Some(Err(End::Protocol(source))),
            }
        }
        !self.data.is_empty()
    }
}

/// The bytes that a stream begins with: the request and the first content. `whole` says that no
/// more follows.
pub(crate) fn beginning(request: &Request, first: &[u8], whole: bool) -> Result<Vec<u8>, Error> {
    let mut bytes = frame(request)?;
    for piece in first.chunks(MAX_CHUNK) {
        Input::Data(piece.to_vec()).encode(&mut bytes);
    }
    if whole {
        Input::DataEnd.encode(&mut bytes);
    }
    Ok(bytes)
}

/// The beginning of `bytes` that goes in one frame.
pub(crate) fn piece(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_CHUNK).unwrap_or(bytes)
}
