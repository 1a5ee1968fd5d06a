//! A machine for tests that play the agent.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use supermachine_vmm::Machine;

use super::{AgentStream, MachineHandle, StreamError};
use crate::Error;

/// A machine without a guest.
#[derive(Debug)]
struct FakeMachine {
    exit: Option<StreamError>,
}

/// A machine that was dropped.
pub(crate) fn stopped() -> Arc<dyn MachineHandle> {
    Arc::new(FakeMachine { exit: Some(StreamError::Stopped) })
}

/// A machine that runs.
#[cfg(feature = "tokio")]
pub(crate) fn running() -> Arc<dyn MachineHandle> {
    Arc::new(FakeMachine { exit: None })
}

/// A stream to a machine that was dropped.
pub(crate) fn stream(stream: UnixStream) -> AgentStream {
    AgentStream { stream, machine: stopped() }
}

impl MachineHandle for FakeMachine {
    fn dial(&self, _frames: &[u8]) -> Result<UnixStream, Error> {
        Err(Error::Stopped)
    }

    fn exit(&self) -> Option<StreamError> {
        self.exit.clone()
    }

    fn is_healthy(&self) -> bool {
        self.exit.is_none()
    }

    fn console(&self) -> Result<Vec<u8>, Error> {
        Err(Error::Stopped)
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        Err(Error::Stopped)
    }

    fn pause(&self) -> Result<(), Error> {
        Err(Error::Stopped)
    }

    fn resume(&self) -> Result<(), Error> {
        Err(Error::Stopped)
    }

    fn stop(&self) -> Result<(), Error> {
        Err(Error::Stopped)
    }

    fn keep_alive(&self) -> Option<Arc<Machine>> {
        None
    }
}
