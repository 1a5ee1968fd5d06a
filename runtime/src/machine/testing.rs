//! A machine for tests that play the agent, and captures without a machine.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::memory::{PAGE_SIZE, runs_of};
use supermachine_vmm::{Captured, DirtyPages, Machine, Timings};

use super::{AgentStream, MachineHandle, StreamError};
use crate::Error;
use crate::error::WorkerError;

/// How long the guest of a capture was paused.
pub(crate) const STOPPED: Duration = Duration::from_millis(3);

/// A machine without a guest.
#[derive(Debug, Default)]
pub(crate) struct FakeMachine {
    exit: Option<StreamError>,
    /// What a worker would answer.
    capture: Mutex<Option<Captured>>,
}

/// A machine in a worker, which answers one capture and then is gone.
pub(crate) fn captured_as(capture: Option<Captured>) -> FakeMachine {
    FakeMachine { capture: Mutex::new(capture), ..FakeMachine::default() }
}

/// A capture with this state and these pages, in rising order.
pub(crate) fn capture(snapshot: Snapshot, pages: &[(u64, [u8; PAGE_SIZE as usize])]) -> Captured {
    let content: Vec<u8> = pages.iter().flat_map(|(_, content)| *content).collect();
    let file = memory_file(&content, true);
    let runs = runs_of(pages.iter().map(|(page, _)| *page));
    let dirty = DirtyPages::from_file(runs, &file, snapshot.machine.memory_size).unwrap();
    Captured { snapshot, dirty, stopped: Timings::of_step("stopped", STOPPED) }
}

/// A file in memory, sealed or not.
pub(crate) fn memory_file(content: &[u8], is_sealed: bool) -> File {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made the descriptor for us alone.
    let file = unsafe { File::from_raw_fd(fd) };
    file.write_all_at(content, 0).unwrap();
    if is_sealed {
        let seals =
            libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
        // SAFETY: the call takes flags by value and touches no memory.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
    }
    file
}

/// A machine that was dropped.
pub(crate) fn stopped() -> Arc<dyn MachineHandle> {
    Arc::new(FakeMachine { exit: Some(StreamError::Stopped), ..FakeMachine::default() })
}

/// A machine that runs.
#[cfg(feature = "tokio")]
pub(crate) fn running() -> Arc<dyn MachineHandle> {
    Arc::new(FakeMachine::default())
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

    fn request_capture(&self, _memory_size: u64) -> Result<Captured, Error> {
        let captured = self.capture.lock().unwrap().take();
        captured.ok_or(Error::Worker { source: WorkerError::Gone })
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
