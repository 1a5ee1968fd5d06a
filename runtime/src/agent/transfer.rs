//! A request that moves bytes one way, and waits for them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{Input, Message, Request};

use super::delivery::{Delivery, beginning, piece};
use super::{End, Line, Witness};
use crate::{Error, Vm};

/// The request under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Transfer {
    stream: UnixStream,
    witness: Witness,
    delivery: Delivery,
}

impl Transfer {
    /// Sends the request with the first bytes; `whole` says that no more follow.
    pub(crate) fn open(
        vm: &Vm,
        request: &Request,
        first: &[u8],
        whole: bool,
    ) -> Result<Self, Error> {
        let bytes = beginning(request, first, whole)?;
        let Line { stream, witness } = vm.dial(&bytes)?;
        Ok(Self { stream, witness, delivery: Delivery::default() })
    }

    /// Sends bytes; waits while the guest has no room.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let piece = piece(bytes);
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
        self.until(Delivery::answer)
    }

    /// The next bytes; none at the end.
    pub(crate) fn receive(&mut self, space: &mut [u8]) -> Result<Option<usize>, End> {
        self.until(|delivery| delivery.read(space))
    }

    fn send_frame(&mut self, input: &Input) -> Result<(), End> {
        if self.stream.write_all(&input.to_frame()).is_ok() {
            return Ok(());
        }
        // The agent has ended it: its answer says why.
        self.wait()?;
        Err(End::Unexpected { request: "write" })
    }

    /// Reads until something is known.
    fn until<T>(&mut self, mut known: impl FnMut(&mut Delivery) -> Option<T>) -> T {
        loop {
            if let Some(known) = known(&mut self.delivery) {
                return known;
            }
            match self.delivery.fill(|space| self.stream.read(space)) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.delivery.fail(self.witness.end()),
            }
        }
    }
}
