//! Who holds a machine: this process, or another one.
//!
//! The one place where the two are told apart. Above it, commands, files and ports only see the
//! streams that it opens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::{End, Line, Witness};
use crate::forward::Reach;
use crate::live::{self, Snapshotted};
use crate::worker::Client;
use crate::{Error, Image};
use supermachine_vmm::{Machine, MachineError};

/// The holder of a machine. A clone holds it as well.
#[derive(Debug, Clone)]
pub(crate) enum Holder {
    /// This process. The machine is shared only with what captures it.
    Here(Arc<Machine>, Image),
    /// Another one.
    There(Client),
}

impl Holder {
    /// How forwards reach the machine.
    pub(crate) fn reach(&self) -> Arc<Reach> {
        match self {
            Self::Here(machine, _) => Reach::new(machine.streams()),
            Self::There(client) => Reach::over(Box::new(client.clone())),
        }
    }

    /// Opens a stream to the agent that begins with these frames.
    pub(crate) fn dial(&self, frames: &[u8]) -> Result<Line, Error> {
        match self {
            Self::Here(machine, _) => Line::open(machine, frames),
            Self::There(client) => client.line(frames),
        }
    }

    /// Whether the guest runs, as far as can be told without asking it.
    pub(crate) fn is_well(&self) -> bool {
        match self {
            Self::Here(machine, _) => machine.failure().is_none(),
            Self::There(client) => client.is_there(),
        }
    }

    /// Why streams end, if that is known by now.
    pub(crate) fn look(&self) -> Option<End> {
        self.witness().look(Instant::now())
    }

    /// The end of the guest kernel's messages.
    pub(crate) fn console(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Here(machine, _) => Ok(machine.console()),
            Self::There(client) => client.console(),
        }
    }

    /// The processor time that the guest has used, and its exits.
    pub(crate) fn usage(&self) -> Result<(Duration, u64), Error> {
        match self {
            Self::Here(machine, _) => Ok((machine.cpu_time(), machine.exits())),
            Self::There(client) => client.usage(),
        }
    }

    /// Takes a snapshot.
    pub(crate) fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        match self {
            Self::Here(machine, image) => live::take(machine, image, name),
            Self::There(client) => client.snapshot(name),
        }
    }

    /// Halts the guest.
    pub(crate) fn pause(&self) -> Result<(), Error> {
        match self {
            Self::Here(machine, _) => machine.pause().map_err(|error| self.explain(error)),
            Self::There(client) => client.pause(),
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<(), Error> {
        match self {
            Self::Here(machine, _) => machine.resume().map_err(|error| self.explain(error)),
            Self::There(client) => client.resume(),
        }
    }

    /// The machine, if this process holds it.
    pub(crate) fn here(&self) -> Result<&Machine, Error> {
        match self {
            Self::Here(machine, _) => Ok(machine),
            Self::There(_) => Err(Error::HeldElsewhere),
        }
    }

    /// Tells whether the guest is still well, and ends a machine that dropping this does not end.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        match self {
            Self::Here(machine, _) if machine.failure().is_none() => Ok(()),
            Self::Here(..) => Err(self.witness().end().into_error()),
            Self::There(client) => client.stop(),
        }
    }

    /// Tells of a guest's end with the last of its console.
    fn explain(&self, error: MachineError) -> Error {
        match error {
            MachineError::Ended { .. } => self.witness().end().into_error(),
            error => error.into(),
        }
    }

    fn witness(&self) -> Witness {
        match self {
            Self::Here(machine, _) => Witness::Here(machine.exit_watch()),
            Self::There(client) => Witness::There(client.clone()),
        }
    }
}
