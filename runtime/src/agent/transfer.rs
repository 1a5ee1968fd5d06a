//! A blocking request that moves bytes one way.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use supermachine_formats::wire::{Input, Message, Request};

use super::delivery::Delivery;
use super::request::{beginning, piece};
use crate::Error;
use crate::machine::{AgentStream, MachineHandle, StreamError};

/// A request in progress. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Transfer {
    stream: UnixStream,
    machine: Arc<dyn MachineHandle>,
    delivery: Delivery,
}

impl Transfer {
    /// Sends the request with the first bytes; `whole` marks them as all.
    pub(crate) fn open(
        machine: &Arc<dyn MachineHandle>,
        request: &Request,
        first: &[u8],
        whole: bool,
    ) -> Result<Self, Error> {
        let bytes = beginning(request, first, whole)?;
        let AgentStream { stream, machine } = AgentStream::open(machine, &bytes)?;
        Ok(Self { stream, machine, delivery: Delivery::default() })
    }

    /// Sends bytes, and blocks while the guest has no room.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, StreamError> {
        let piece = piece(bytes);
        if !piece.is_empty() {
            self.send_frame(&Input::Data(piece.to_vec()))?;
        }
        Ok(piece.len())
    }

    /// Sends the end of the bytes, and waits for the result.
    pub(crate) fn finish(mut self) -> Result<(), StreamError> {
        self.send_frame(&Input::DataEnd)?;
        self.wait()
    }

    /// Waits for the result.
    pub(crate) fn wait(&mut self) -> Result<(), StreamError> {
        self.until(Delivery::answer)
    }

    /// Reads the next bytes; `None` at the end.
    pub(crate) fn receive(&mut self, space: &mut [u8]) -> Result<Option<usize>, StreamError> {
        self.until(|delivery| delivery.read(space))
    }

    fn send_frame(&mut self, input: &Input) -> Result<(), StreamError> {
        if self.stream.write_all(&input.to_frame()).is_ok() {
            return Ok(());
        }
        // The agent closed the stream: its reply explains why.
        self.wait()?;
        Err(StreamError::Unexpected { request: "write" })
    }

    /// Reads until `known` returns a value.
    fn until<T>(&mut self, mut known: impl FnMut(&mut Delivery) -> Option<T>) -> T {
        loop {
            if let Some(known) = known(&mut self.delivery) {
                return known;
            }
            match self.delivery.fill(|space| self.stream.read(space)) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.delivery.fail(self.machine.wait_exit()),
            }
        }
    }
}
