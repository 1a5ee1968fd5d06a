//! A running machine, as an application sees it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use supermachine_formats::wire::Control;

use crate::agent::resume;
use crate::forward::Reach;
use crate::live::{self, Snapshotted};
use crate::machine::{Machine, Restore};
use crate::timings::Way;
use crate::{Error, ExecBuilder, ExecOutcome, Image, Timings, VmConfig};

/// A running machine. It ends when it is dropped.
///
/// ```no_run
/// use supermachine::{Image, Vm, VmConfig};
///
/// # fn main() -> Result<(), supermachine::Error> {
/// let image = Image::from_store("snapshots", "busybox")?;
/// let vm = Vm::start(&image, &VmConfig::new())?;
/// assert_eq!(vm.exec(["echo", "hello"])?.stdout, b"hello\n");
/// vm.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Vm {
    /// Closed before the machine ends.
    reach: Arc<Reach>,
    machine: Machine,
    image: Image,
    /// Stays open for as long as the guest runs; the agent counts on it.
    _control: UnixStream,
    timings: Timings,
}

impl Vm {
    /// Starts a machine from an image's snapshot.
    ///
    /// # Errors
    /// The configuration requires another machine than the snapshot holds, or the host
    /// cannot run it.
    pub fn start(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        let mut timings = Timings::start();
        check(image, config)?;
        let (origin, way) = image.origin(config)?;
        timings.set_way(way);
        timings.step(if way == Way::Expanded { "expand" } else { "open" });
        let parts = Restore { snapshot: Arc::clone(image.snapshot()), origin };
        let machine = Machine::restore(parts, &mut timings)?;
        let control = go_on(&machine, config)?;
        timings.step("resume");
        let reach = Reach::new(machine.streams());
        Ok(Self { reach, machine, image: image.clone(), _control: control, timings })
    }

    /// Runs a command to its end and collects what it writes.
    ///
    /// # Errors
    /// Those of [`ExecBuilder::output`].
    pub fn exec<I>(&self, argv: I) -> Result<ExecOutcome, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<std::ffi::OsStr>,
    {
        self.exec_builder().argv(argv).output()
    }

    /// Begins to describe a command.
    pub fn exec_builder(&self) -> ExecBuilder<'_> {
        ExecBuilder::new(self)
    }

    /// Takes a snapshot of the running machine into the store that its own snapshot lies in.
    /// The guest stands still for some milliseconds and goes on; machines that start from the
    /// new snapshot find their streams to the host closed.
    ///
    /// # Errors
    /// The snapshot does not lie in a store, the name is not a possible one, or the guest or
    /// the store cannot be read or written.
    pub fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        live::take(&self.machine, &self.image, name)
    }

    /// How long each step of the start took.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The end of the guest kernel's messages.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.machine.console()
    }

    /// Ends the machine and tells whether the guest was still well.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had ended by itself.
    pub fn stop(self) -> Result<(), Error> {
        match self.machine.failure() {
            Some(_) => Err(crate::agent::explain(&self.machine)),
            None => Ok(()),
        }
    }

    /// Puts the machine back to its snapshot, and lets it go on as another one. After an error it
    /// must not be used any more.
    pub(crate) fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        let mut timings = Timings::start();
        timings.set_way(self.timings.way());
        self.part();
        self.machine.reset(&mut timings)?;
        self._control = go_on(&self.machine, config)?;
        timings.step("resume");
        self.timings = timings;
        Ok(())
    }

    /// Ends the forwards of who used the machine; the next user has forwards of its own.
    pub(crate) fn part(&mut self) {
        self.reach.close();
        self.reach = Reach::new(self.machine.streams());
    }

    /// How forwards reach the machine.
    pub(crate) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }
}

/// Tells a machine what it must know first, and runs it. Gives its control stream.
fn go_on(machine: &Machine, config: &VmConfig) -> Result<UnixStream, Error> {
    let control = machine.control()?;
    machine.send_control(&Control::Resume(resume(config.hostname())?))?;
    machine.run();
    Ok(control)
}

/// Whether the snapshot has the machine that the configuration requires.
pub(crate) fn check(image: &Image, config: &VmConfig) -> Result<(), Error> {
    let machine = &image.snapshot().machine;
    let found = machine.memory_size >> 20;
    if let Some(wanted) = config.memory_mib().filter(|wanted| *wanted != found) {
        return Err(Error::Mismatch { what: "MiB of memory", wanted, found });
    }
    if let Some(wanted) = config.vcpus().filter(|wanted| *wanted != machine.vcpus) {
        let (wanted, found) = (wanted.into(), machine.vcpus.into());
        return Err(Error::Mismatch { what: "vCPUs", wanted, found });
    }
    Ok(())
}
