//! The replies to a request that moves bytes one way, a file or an archive. It does no I/O: a
//! [`Transfer`](super::Transfer) reads for it.

use std::io;

use supermachine_formats::wire::Reply;

use super::backlog::Backlog;
use super::frames::Frames;
use crate::machine::StreamError;

/// The received bytes, and the result.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    frames: Frames,
    /// Bytes that are not read yet.
    data: Backlog,
    end: Option<Result<(), StreamError>>,
}

impl Delivery {
    /// Has `read` fill a buffer, processes the bytes, and returns their number.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.frames.fill(read)
    }

    /// Fails it, unless it has a result.
    pub(crate) fn fail(&mut self, end: StreamError) {
        self.end.get_or_insert(Err(end));
    }

    /// Reads the next bytes: their number, or `Ok(None)` at the end. `None`: more must arrive
    /// first.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Option<Result<Option<usize>, StreamError>> {
        if !self.has_data() {
            return Some(self.end.clone()?.map(|()| None));
        }
        Some(Ok(Some(self.data.read(space))))
    }

    /// The result of what was sent. `None`: more must arrive first.
    pub(crate) fn answer(&mut self) -> Option<Result<(), StreamError>> {
        if self.has_data() {
            return Some(Err(StreamError::Unexpected { request: "write" }));
        }
        self.end.clone()
    }

    /// Whether there are bytes, of this frame or the next.
    fn has_data(&mut self) -> bool {
        while self.data.is_empty() && self.end.is_none() {
            match self.frames.next::<Reply>() {
                Ok(Some(Reply::Data(bytes))) => self.data = Backlog::of(bytes),
                Ok(Some(Reply::Done)) => self.end = Some(Ok(())),
                Ok(Some(Reply::Failed(failure))) => {
                    self.end = Some(Err(StreamError::Agent(failure)))
                }
                Ok(Some(_)) => self.end = Some(Err(StreamError::Unexpected { request: "file" })),
                Ok(None) => return false,
                Err(source) => self.end = Some(Err(StreamError::Protocol(source))),
            }
        }
        !self.data.is_empty()
    }
}
