//! A running machine, as an application sees it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use supermachine_formats::wire::{Control, Reply, Request};

use crate::agent::{Line, Replies, frame, resume};
use crate::forward::Reach;
use crate::live::{self, Snapshotted};
use crate::machine::{Machine, MachineError, Restore};
use crate::timings::Way;
use crate::{
    Error, ExecBuilder, ExecOutcome, ExitStatus, FileBuilder, FileReader, FileWriter, Image,
    Timings, VmConfig, VmStats,
};

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
    /// Shared only with what captures it.
    machine: Arc<Machine>,
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
        Ok(Self {
            reach,
            machine: Arc::new(machine),
            image: image.clone(),
            _control: control,
            timings,
        })
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

    /// Writes a file: in place, and new ones with mode 0644 as root's. See [`file`](Self::file)
    /// for more.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// vm.write_file("/etc/motd", "hello\n")?;
    /// assert_eq!(vm.read_file("/etc/motd")?, b"hello\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`FileBuilder::write`].
    pub fn write_file(
        &self,
        path: impl AsRef<Path>,
        content: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.file(path).write(content)
    }

    /// Reads a regular file. For large ones there is [`file_reader`](Self::file_reader).
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        self.file_reader(path)?.content()
    }

    /// Begins to describe how a file is written: its mode, owner, and whether it is appended to.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// vm.file("/etc/key").mode(0o640).owner("root:ssl").write("secret")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn file(&self, path: impl AsRef<Path>) -> FileBuilder<'_> {
        FileBuilder::new(self, path.as_ref())
    }

    /// Reads a regular file of any length, piece by piece.
    ///
    /// # Errors
    /// The path is not a possible one, or no stream can be opened. What the guest says comes with
    /// the first piece.
    pub fn file_reader(&self, path: impl AsRef<Path>) -> Result<FileReader, Error> {
        FileReader::open(self, path.as_ref())
    }

    /// Writes a file of any length, piece by piece.
    ///
    /// # Errors
    /// Those of [`FileBuilder::writer`].
    pub fn file_writer(&self, path: impl AsRef<Path>) -> Result<FileWriter, Error> {
        self.file(path).writer()
    }

    /// Unpacks a tar archive into a directory of the guest, which is made if need be.
    ///
    /// Owners, modes, times and links are those of the archive; what is there under the same
    /// names is replaced. If it fails, what was unpacked until then stays.
    ///
    /// # Errors
    /// [`Error::Agent`]: the archive is malformed or has names with `..`, or the guest's error
    /// number with the path. [`Error::Copy`] when the archive cannot be read.
    pub fn copy_in(&self, path: impl AsRef<Path>, mut tar: impl Read) -> Result<(), Error> {
        crate::files::copy_in(self, path.as_ref(), &mut tar)
    }

    /// Packs a file of the guest, or a directory and all in it, into a tar archive.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path. [`Error::Copy`] when the
    /// archive cannot be written.
    pub fn copy_out(&self, path: impl AsRef<Path>, mut tar: impl Write) -> Result<(), Error> {
        crate::files::copy_out(self, path.as_ref(), &mut tar)
    }

    /// Sends a signal to the image's entrypoint.
    ///
    /// # Errors
    /// The number is no signal; [`Error::Agent`] when the entrypoint has ended.
    pub fn workload_signal(&self, signal: i32) -> Result<(), Error> {
        let signal = signal_number(signal)?;
        match self.ask(&Request::SignalEntrypoint { signal })?.only()? {
            Reply::Done => Ok(()),
            _ => Err(Error::UnexpectedReply { request: "signal" }),
        }
    }

    /// Waits for the end of the image's entrypoint. Returns at once if it has ended before.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest ends instead.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        match self.ask(&Request::WaitEntrypoint)?.only()? {
            Reply::Exited(exit) => Ok(ExitStatus(exit.status)),
            _ => Err(Error::UnexpectedReply { request: "wait" }),
        }
    }

    /// What the machine uses at present: the guest's memory and this host's processors.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub fn stats(&self) -> Result<VmStats, Error> {
        VmStats::of(&self.machine, self.ask(&Request::Memory)?.only()?)
    }

    /// Has the guest stand still until [`resume`](Self::resume), and use no processor meanwhile.
    /// Its memory stays. A machine that is paused already is left so.
    ///
    /// Whatever asks the guest for something then waits: commands, files, connections. So do
    /// limits that the guest keeps, but time goes on for it: a command whose time-out passes in
    /// the pause is ended at its end, and given up by the host ten seconds after its time-out.
    /// [`snapshot`](Self::snapshot), [`console`](Self::console), [`stop`](Self::stop) and dropping
    /// need no guest that runs. A pooled machine that is given back goes on by itself.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// vm.pause()?;
    /// std::thread::sleep(std::time::Duration::from_secs(300));
    /// vm.resume()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub fn pause(&self) -> Result<(), Error> {
        paused(&self.machine)
    }

    /// Lets a paused machine go on, with the host's wall clock. One that runs is left so.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub fn resume(&self) -> Result<(), Error> {
        resumed(&self.machine)
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
            Some(_) => Err(crate::agent::explain(&self.machine.witness())),
            None => Ok(()),
        }
    }

    /// Puts the machine back to its snapshot, and lets it go on as another one. After an error it
    /// must not be used any more.
    pub(crate) fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        let mut timings = Timings::start();
        timings.set_way(self.timings.way());
        self.part();
        // What still captures it for who had it must not find what the next one does.
        if Arc::get_mut(&mut self.machine).is_none() {
            return Err(MachineError::BeingCaptured.into());
        }
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

    /// Opens a stream to the agent that begins with these frames. All that is asked of the guest
    /// goes through here, or through [`Reach`].
    pub(crate) fn dial(&self, frames: &[u8]) -> Result<Line, Error> {
        Line::open(&self.machine, frames)
    }

    /// Sends a request to the agent.
    pub(crate) fn ask(&self, request: &Request) -> Result<Replies, Error> {
        Ok(Replies::on(self.dial(&frame(request)?)?))
    }

    /// How forwards reach the machine.
    pub(crate) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// The machine itself, for those who make snapshots.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What a snapshot is taken of, also while this is in use.
    #[cfg(feature = "tokio")]
    pub(crate) fn parts(&self) -> (Arc<Machine>, Image) {
        (Arc::clone(&self.machine), self.image.clone())
    }
}

/// Pauses a machine.
pub(crate) fn paused(machine: &Machine) -> Result<(), Error> {
    machine.pause().map_err(|error| ended(machine, error))
}

/// Lets a machine go on.
pub(crate) fn resumed(machine: &Machine) -> Result<(), Error> {
    machine.resume().map_err(|error| ended(machine, error))
}

/// Tells of a guest's end with the last of its console.
fn ended(machine: &Machine, error: MachineError) -> Error {
    match error {
        MachineError::Ended { .. } => crate::agent::explain(&machine.witness()),
        error => error.into(),
    }
}

/// A number that is a signal.
pub(crate) fn signal_number(number: i32) -> Result<u8, Error> {
    let signal = u8::try_from(number).ok().filter(|signal| (1..=64).contains(signal));
    signal.ok_or(Error::InvalidSignal { number })
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
