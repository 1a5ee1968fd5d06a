//! A running machine, as an application sees it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Control, Reply, Request};

use crate::agent::{Line, Replies, frame, resume};
use crate::exec::pass_on;
use crate::forward::Reach;
use crate::holder::Holder;
use crate::live::Snapshotted;
use crate::worker::{Client, Process};
use crate::{
    Error, ExecBuilder, ExecOutcome, ExitStatus, FileBuilder, FileReader, FileWriter, Image,
    Timings, VmConfig, VmStats,
};
use supermachine_vmm::Way;
use supermachine_vmm::{Machine, MachineError, Restore};

/// A running machine. It ends when it is dropped.
///
/// It belongs to the process that started it. In a process that this one forks it has no threads:
/// there it must be neither used nor dropped. What is started by [`std::process::Command`]
/// inherits nothing of it.
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
    holder: Holder,
    /// Stays open for as long as the guest runs; the agent counts on it. None where another
    /// process holds the machine.
    control: Option<UnixStream>,
    timings: Timings,
    /// The process that holds it, if it has one of its own.
    _process: Option<Process>,
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
        if config.is_isolated() {
            let (process, way) = Process::start(image, config)?;
            timings.set_way(way);
            timings.step("process");
            let client = process.client().clone();
            return Ok(Self { timings, _process: Some(process), ..Self::held_by(client) });
        }
        let (origin, way) = image.origin(config)?;
        timings.set_way(way);
        timings.step(if way == Way::Expanded { "expand" } else { "open" });
        let parts = Restore { snapshot: Arc::clone(image.snapshot()), origin };
        let machine = Machine::restore(parts, &mut timings)?;
        let control = go_on(&machine, config)?;
        timings.step("resume");
        let holder = Holder::Here(Arc::new(machine), image.clone());
        let reach = holder.reach();
        Ok(Self { reach, holder, control: Some(control), timings, _process: None })
    }

    /// A machine that another process holds.
    pub(crate) fn held_by(client: Client) -> Self {
        let holder = Holder::There(client);
        let reach = holder.reach();
        Self { reach, holder, control: None, timings: Timings::start(), _process: None }
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

    /// Waits for the end of the image's entrypoint, but no longer than this; none if it has not
    /// ended by then.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest ends instead; the time is zero.
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        let mut replies = self.ask(&Request::WaitEntrypoint)?;
        replies.set_limit(Some(limit))?;
        match replies.only() {
            Ok(Reply::Exited(exit)) => Ok(Some(ExitStatus(exit.status))),
            Ok(_) => Err(Error::UnexpectedReply { request: "wait" }),
            Err(Error::Unanswered { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Passes on what the image's entrypoint has written since it began, before the snapshot too:
    /// the last 64 KiB of it, which is what is kept. Gives how the entrypoint ended, if it has.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/web")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    /// let ended = vm.logs_to(&mut stdout, &mut stderr)?;
    /// # drop(ended);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Agent`] when the image has no entrypoint, [`Error::Guest`] when the guest ends, and
    /// [`Error::Output`] when a writer fails.
    pub fn logs_to(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<Option<ExitStatus>, Error> {
        self.pass_logs(false, stdout, stderr)
    }

    /// The same, and goes on with what the entrypoint writes until it ends. Who reads more slowly
    /// than it writes misses what is not kept any more.
    ///
    /// # Errors
    /// Those of [`logs_to`](Self::logs_to).
    pub fn follow_logs_to(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExitStatus, Error> {
        let ended = self.pass_logs(true, stdout, stderr)?;
        ended.ok_or(Error::UnexpectedReply { request: "logs" })
    }

    fn pass_logs(
        &self,
        follow: bool,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<Option<ExitStatus>, Error> {
        let mut replies = self.ask(&Request::Logs { follow })?;
        loop {
            match replies.next()? {
                Reply::Stdout(bytes) => pass_on(stdout, &bytes, "standard output")?,
                Reply::Stderr(bytes) => pass_on(stderr, &bytes, "standard error")?,
                Reply::Done => return Ok(None),
                Reply::Exited(exit) => return Ok(Some(ExitStatus(exit.status))),
                Reply::Failed(failure) => return Err(Error::Agent { failure }),
                _ => return Err(Error::UnexpectedReply { request: "logs" }),
            }
        }
    }

    /// What the machine uses at present: the guest's memory and this host's processors.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub fn stats(&self) -> Result<VmStats, Error> {
        VmStats::of(self, self.ask(&Request::Memory)?.only()?)
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
        self.holder.pause()
    }

    /// Lets a paused machine go on, with the host's wall clock. One that runs is left so.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.holder.resume()
    }

    /// Takes a snapshot of the running machine into the store that its own snapshot lies in.
    /// The guest stands still for some milliseconds and goes on; machines that start from the
    /// new snapshot find their streams to the host closed. A machine that another process holds
    /// opens no further stream for this one meanwhile.
    ///
    /// # Errors
    /// The snapshot does not lie in a store, the name is not a possible one, or the guest or
    /// the store cannot be read or written.
    pub fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        self.holder.snapshot(name)
    }

    /// How long each step of the start took. Nothing for a machine that another process holds.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The end of the guest kernel's messages. Nothing when another process holds the machine and
    /// does not answer.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.holder.console().unwrap_or_default()
    }

    /// Ends the machine and tells whether the guest was still well.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had ended by itself.
    pub fn stop(self) -> Result<(), Error> {
        self.holder.stop()
    }

    /// Puts the machine back to its snapshot, and lets it go on as another one. After an error it
    /// must not be used any more.
    pub(crate) fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        let mut timings = Timings::start();
        timings.set_way(self.timings.way());
        self.part();
        // What still captures it for who had it must not find what the next one does.
        let Holder::Here(machine, _) = &mut self.holder else {
            return Err(MachineError::Unresettable.into());
        };
        if Arc::get_mut(machine).is_none() {
            return Err(MachineError::BeingCaptured.into());
        }
        machine.reset(&mut timings)?;
        self.control = Some(go_on(machine, config)?);
        timings.step("resume");
        self.timings = timings;
        Ok(())
    }

    /// Ends the forwards of who used the machine; the next user has forwards of its own.
    pub(crate) fn part(&mut self) {
        self.reach.close();
        self.reach = self.holder.reach();
    }

    /// Opens a stream to the agent that begins with these frames. All that is asked of the guest
    /// goes through here, or through [`Reach`].
    pub(crate) fn dial(&self, frames: &[u8]) -> Result<Line, Error> {
        self.holder.dial(frames)
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
    ///
    /// # Errors
    /// [`Error::HeldElsewhere`] when another process holds it.
    pub fn machine(&self) -> Result<&Machine, Error> {
        self.holder.here()
    }

    /// Whether the guest runs, as far as can be told without asking it.
    pub(crate) fn is_well(&self) -> bool {
        self.holder.is_well()
    }

    /// The processor time that the guest has used, and its exits.
    pub(crate) fn usage(&self) -> Result<(Duration, u64), Error> {
        self.holder.usage()
    }

    /// Who holds the machine. A clone of it keeps the machine from being reset.
    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
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
