//! A request that moves bytes one way: a file or an archive.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{Input, MAX_CHUNK, Message, Reply, Request};

use super::{End, Frames, Line, frame};
use crate::machine::Witness;
use crate::{Error, Vm};

/// What is read from the stream at once.
const PIECE: usize = 64 << 10;

/// The request under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Transfer {
    stream: UnixStream,
    witness: Witness,
    frames: Frames,
    /// Bytes that were not read yet, from `start` on.
    data: Vec<u8>,
    start: usize,
    /// How it ended.
    end: Option<Result<(), End>>,
}

impl Transfer {
    /// Sends the request with the first bytes; `whole` says that no more follow.
    pub(crate) fn open(
        vm: &Vm,
        request: &Request,
        first: &[u8],
        whole: bool,
    ) -> Result<Self, Error> {
        let mut bytes = frame(request)?;
        for piece in first.chunks(MAX_CHUNK) {
            Input::Data(piece.to_vec()).encode(&mut bytes);
        }
        if whole {
            Input::DataEnd.encode(&mut bytes);
        }
        let Line { stream, witness } = vm.dial(&bytes)?;
        Ok(Self {
            stream,
            witness,
            frames: Frames::default(),
            data: Vec::new(),
            start: 0,
            end: None,
        })
    }

    /// Sends bytes; waits while the guest has no room.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let piece = bytes.get(..MAX_CHUNK).unwrap_or(bytes);
        if !piece.is_empty() {
            self.send_frame(&Input::Data(piece.to_vec()))?;
        }
        Ok(piece.len())
    }

    /// Says that no more follow, and waits for the answer.
    pub(crate) fn finish(mut self) -> Result<(), End> {
        self.send_frame(&Input::DataEnd)?;
        self.wait()
    }

    /// Waits for the answer.
    pub(crate) fn wait(&mut self) -> Result<(), End> {
        match self.receive(&mut [])? {
            None => Ok(()),
            Some(_) => Err(End::Unexpected { request: "write" }),
        }
    }

    /// The next bytes; none at the end. Without space, only the end is waited for: the count of
    /// bytes that came instead is 0.
    pub(crate) fn receive(&mut self, space: &mut [u8]) -> Result<Option<usize>, End> {
        loop {
            let waiting = self.data.get(self.start..).unwrap_or_default();
            if !waiting.is_empty() {
                let count = waiting.len().min(space.len());
                for (place, byte) in space.iter_mut().zip(waiting) {
                    *place = *byte;
                }
                self.start += count;
                return Ok(Some(count));
            }
            match &self.end {
                Some(Ok(())) => return Ok(None),
                Some(Err(end)) => return Err(end.clone()),
                None => {}
            }
            self.receive_frame();
        }
    }

    fn send_frame(&mut self, input: &Input) -> Result<(), End> {
        if self.stream.write_all(&input.to_frame()).is_ok() {
            return Ok(());
        }
        // The agent has ended it: its answer says why.
        match self.wait() {
            Ok(()) => Err(End::Unexpected { request: "write" }),
            Err(end) => Err(end),
        }
    }

    /// Takes the next frame in.
    fn receive_frame(&mut self) {
        let mut space = [0; PIECE];
        loop {
            match self.frames.next::<Reply>() {
                Ok(Some(Reply::Data(bytes))) => {
                    self.data = bytes;
                    self.start = 0;
                    return;
                }
                Ok(Some(reply)) => {
                    self.end = Some(match reply {
                        Reply::Done => Ok(()),
                        Reply::Failed(failure) => Err(End::Agent(failure)),
                        _ => Err(End::Unexpected { request: "file" }),
                    });
                    return;
                }
                Ok(None) => {}
                Err(source) => {
                    self.end = Some(Err(End::Protocol(source)));
                    return;
                }
            }
            match self.stream.read(&mut space) {
                Ok(count @ 1..) => self.frames.push(space.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.end = Some(Err(End::find(&self.witness)));
                    return;
                }
            }
        }
    }
}
