//! A machine in this process.
//!
//! Invariant: a handle reaches the machine only during its use of it. A use lasts from a start or
//! reset to the next reset, or until the machine is dropped.
//!
//! Lock: `owned` is held for moments only, never while the machine works.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supermachine_formats::wire::{self, Control, ENTROPY_SIZE, REQUEST_PORT, Resume};
use supermachine_vmm::{
    Ends, ExitWatch, FrameLink, Machine, MachineError, Restore, Timings, fill_random, realtime_ns,
};

use super::handle::MachineHandle;
use super::stream_error::{StreamError, console_text, explained};
use crate::Error;
use crate::disks::Stored;
use crate::error::HostError;
use crate::network::Plug;
use crate::shares::Shared;

/// What the agent sets up in a machine that starts.
#[derive(Debug, Default)]
pub(crate) struct Setup<'a> {
    /// The host name; `None` keeps the snapshot's.
    pub(crate) hostname: Option<&'a str>,
    /// The network.
    pub(crate) network: Option<wire::Network>,
    /// The folders of the host.
    pub(crate) shares: Vec<wire::Share>,
    /// The volumes.
    pub(crate) volumes: Vec<wire::Volume>,
}

/// Owns a machine of this process. Dropping it stops the machine.
#[derive(Debug)]
pub(crate) struct LocalMachine {
    handle: Arc<LocalHandle>,
    machine: Arc<Machine>,
    /// The agent expects this stream to stay open while the guest runs, so it is dropped last.
    control: UnixStream,
}

impl LocalMachine {
    /// Starts a machine from opened parts, and measures the steps of the start.
    pub(crate) fn start(
        parts: Restore,
        setup: Setup<'_>,
        timings: &mut Timings,
    ) -> Result<Self, Error> {
        let machine = Arc::new(Machine::restore(parts, timings)?);
        let control = run(&machine, setup)?;
        timings.step("resume");
        Ok(Self { handle: Arc::new(LocalHandle::new(&machine)), machine, control })
    }

    /// The handle of the present use of the machine.
    pub(crate) fn handle(&self) -> Arc<dyn MachineHandle> {
        Arc::clone(&self.handle) as _
    }

    /// The machine itself.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Puts the machine back to its snapshot and runs it for its next use. After an error the
    /// machine must not be used again.
    pub(crate) fn reset(
        &mut self,
        hostname: Option<&str>,
        plug: Option<Plug>,
        (shared, stored): (&[Shared], &[Stored]),
        timings: &mut Timings,
    ) -> Result<(), Error> {
        self.handle.release();
        // A capture for the previous user must not see what the next user does.
        if Arc::strong_count(&self.machine) > 1 {
            return Err(MachineError::BeingCaptured.into());
        }
        let (link, network) = plugged(plug)?;
        let ends: Vec<_> = shared.iter().map(Shared::end).collect();
        let disks: Vec<_> = stored.iter().map(Stored::end).collect();
        let ends = Ends { network: link.as_ref(), shares: &ends, volumes: &disks };
        self.machine.reset(ends, timings)?;
        let shares = shared.iter().map(Shared::setup).collect();
        let volumes = stored.iter().map(Stored::setup).collect();
        self.control = run(&self.machine, Setup { hostname, network, shares, volumes })?;
        timings.step("resume");
        self.handle = Arc::new(LocalHandle::new(&self.machine));
        Ok(())
    }
}

impl Drop for LocalMachine {
    fn drop(&mut self) {
        self.handle.release();
    }
}

/// One use of a machine of this process.
#[derive(Debug)]
struct LocalHandle {
    /// `None` once the use has finished.
    owned: Mutex<Option<Arc<Machine>>>,
    watch: ExitWatch,
}

impl LocalHandle {
    fn new(machine: &Arc<Machine>) -> Self {
        Self { owned: Mutex::new(Some(Arc::clone(machine))), watch: machine.exit_watch() }
    }

    /// Finishes the use. Dropping the machine, if this was the last reference, happens here.
    fn release(&self) {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(owned);
    }

    fn machine(&self) -> Result<Arc<Machine>, Error> {
        self.keep_alive().ok_or(Error::Stopped)
    }
}

impl MachineHandle for LocalHandle {
    fn dial(&self, frames: &[u8]) -> Result<UnixStream, Error> {
        Ok(self.machine()?.connect(REQUEST_PORT, frames)?)
    }

    fn exit(&self) -> Option<StreamError> {
        exit(&self.watch)
    }

    fn is_healthy(&self) -> bool {
        self.watch.failure().is_none()
    }

    fn console(&self) -> Result<Vec<u8>, Error> {
        Ok(self.watch.console())
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        let machine = self.machine()?;
        Ok((machine.cpu_time(), machine.exits()))
    }

    fn pause(&self) -> Result<(), Error> {
        self.machine()?.pause().map_err(|error| explained(error, self.exit()))
    }

    fn resume(&self) -> Result<(), Error> {
        self.machine()?.resume().map_err(|error| explained(error, self.exit()))
    }

    fn stop(&self) -> Result<(), Error> {
        self.exit().map_or(Ok(()), |exit| Err(exit.into_error()))
    }

    fn keep_alive(&self) -> Option<Arc<Machine>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A handle on a machine that the caller owns as such: it explains why streams closed, and can do
/// nothing else.
pub(crate) fn observe(machine: &Machine) -> Arc<dyn MachineHandle> {
    Arc::new(LocalHandle { owned: Mutex::new(None), watch: machine.exit_watch() })
}

/// The resume message for a guest: the time, fresh entropy, and its host name.
///
/// # Errors
/// The operating system has no random bytes.
pub fn resume(hostname: Option<&str>) -> Result<Resume, Error> {
    let mut entropy = [0; ENTROPY_SIZE];
    fill_random(&mut entropy)
        .map_err(|source| Error::Host { source: HostError::NoEntropy { source } })?;
    let hostname = hostname.map(str::to_owned);
    let (network, shares, volumes) = (None, Vec::new(), Vec::new());
    Ok(Resume { realtime_ns: realtime_ns(), entropy, hostname, network, shares, volumes })
}

/// The two ends of a network that a machine has: of its interface, and of its agent.
pub(crate) fn plugged(
    plug: Option<Plug>,
) -> Result<(Option<FrameLink>, Option<wire::Network>), Error> {
    let Some(Plug { frames, setup }) = plug else { return Ok((None, None)) };
    let link = FrameLink::new(frames)
        .map_err(|source| Error::Host { source: HostError::Network { source } })?;
    Ok((Some(link), Some(setup)))
}

/// The last lines of the console, as text.
#[must_use]
pub fn console_tail(machine: &Machine) -> String {
    console_text(&machine.console())
}

/// Sends the resume message and runs the guest. Returns the control stream.
fn run(machine: &Machine, setup: Setup<'_>) -> Result<UnixStream, Error> {
    let Setup { hostname, network, shares, volumes } = setup;
    let control = machine.control()?;
    let resume = Resume { network, shares, volumes, ..resume(hostname)? };
    machine.send_control(&Control::Resume(resume))?;
    machine.run();
    Ok(control)
}

/// Why the streams of a use closed, or `None` while nothing explains it.
fn exit(watch: &ExitWatch) -> Option<StreamError> {
    if let Some(failure) = watch.failure() {
        return Some(StreamError::Guest { failure, console: console_text(&watch.console()) });
    }
    watch.is_stopped().then_some(StreamError::Stopped)
}
