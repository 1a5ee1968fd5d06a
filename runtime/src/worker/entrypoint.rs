//! The watch over a machine's entrypoint, for the status that clients ask for.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use supermachine_formats::wire::{Message, Reply, Request};

use super::status::State;
use crate::agent::Frames;
use crate::machine::{MachineHandle, StreamError};
use crate::{ExitStatus, os};

/// The size of one read from the agent.
const PIECE: usize = 4 << 10;

/// The entrypoint's exit, as far as it is known.
#[derive(Debug)]
pub(super) struct EntrypointWatch {
    /// The stream that reports it; `None` without an entrypoint, or after the report.
    stream: Option<UnixStream>,
    frames: Frames,
    ended: Option<ExitStatus>,
}

impl EntrypointWatch {
    pub(super) fn new(machine: &Arc<dyn MachineHandle>) -> Self {
        let stream = machine.dial(&Request::WaitEntrypoint.to_frame()).ok();
        Self { stream, frames: Frames::default(), ended: None }
    }

    pub(super) fn state(&mut self, machine: &dyn MachineHandle) -> State {
        if let Some(StreamError::Guest { failure, console }) = machine.exit() {
            return State::Failed { failure, console };
        }
        self.take_arrived();
        self.ended.map_or(State::Running, |status| State::EntrypointExited { status })
    }

    /// Processes what has arrived.
    fn take_arrived(&mut self) {
        let mut space = [0; PIECE];
        while let Some(stream) = &self.stream {
            match os::receive(stream, &mut space) {
                Ok(count @ 1..) => self.frames.push(&space[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => self.stream = None,
            }
            match self.frames.next::<Reply>() {
                Ok(None) => {}
                Ok(Some(Reply::Exited(exit))) => {
                    self.ended = Some(ExitStatus(exit.status));
                    self.stream = None;
                }
                // There is no entrypoint, or the agent broke the protocol.
                _ => self.stream = None,
            }
        }
    }
}
