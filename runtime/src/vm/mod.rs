//! A running machine, as an application sees it.

#[cfg(feature = "fs")]
mod kept;
#[cfg(not(feature = "fs"))]
#[path = "nothing_kept.rs"]
mod kept;
mod ports;
mod stats;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Reply, Request};
use supermachine_vmm::{Machine, MachineError, Restore, Timings};

use self::kept::Kept;
pub use self::stats::VmStats;
use crate::agent::{Replies, frame, signal_number};
use crate::disks::{self, Stored};
use crate::error::WorkerError;
use crate::exec::pass_on;
use crate::forward::Dialer;
use crate::live::{self, TakenSnapshot};
use crate::machine::{AgentStream, LocalMachine, MachineHandle, Setup, plugged};
use crate::network::{Attached, Plug};
use crate::shares::{self, Shared};
use crate::worker::{self, Client, Control, Hosted, Process, Server, Serving, Stopped};
use crate::{
    Error, ExecBuilder, ExecOutcome, ExitStatus, FileBuilder, FileReader, FileWriter, Image,
    RestoreMode, VmConfig,
};

/// A running machine. Dropping it stops it.
///
/// It belongs to the process that started it: a forked child, which has none of its threads, must
/// neither use nor drop it. Programs started with [`std::process::Command`] inherit nothing of it.
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
    /// Written back before the machine stops.
    kept: Kept,
    /// Closed before the machine stops.
    dialer: Arc<Dialer>,
    handle: Arc<dyn MachineHandle>,
    /// What it started from; `None` if another process started it.
    image: Option<Image>,
    timings: Timings,
    owner: Owner,
    /// The host's side of its network, which outlives it.
    network: Attached,
}

/// What keeps a machine running.
#[derive(Debug)]
enum Owner {
    /// This process.
    Local(LocalMachine),
    /// A worker that this process owns.
    Worker {
        /// Stops the worker when it is dropped.
        process: Process,
    },
    /// Another process.
    Other,
}

/// What a configuration gives a machine, on the host.
struct Given {
    network: Attached,
    plug: Option<Plug>,
    shared: Vec<Shared>,
    stored: Vec<Stored>,
}

impl Given {
    fn start(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        // Before anything is expanded, and before there is a worker.
        Machine::check_host(image.snapshot())?;
        image.require(config)?;
        let (network, plug) = Attached::start(config)?;
        let shared = shares::start(config, image.snapshot())?;
        let stored = disks::start(config, image.snapshot())?;
        Ok(Self { network, plug, shared, stored })
    }
}

impl Vm {
    /// Starts a machine from an image's snapshot.
    ///
    /// # Errors
    /// The configuration requires another machine than the snapshot holds, or the host
    /// cannot run it.
    // Made part of a program's own code, the choice is known there: programs without isolated machines are
    // linked without what starts workers.
    #[inline]
    pub fn start(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        if config.is_isolated() {
            Self::start_in_worker(image, config)
        } else {
            Self::start_here(image, config)
        }
    }

    #[inline(never)]
    fn start_in_worker(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        let mut timings = Timings::start();
        let Given { network, plug, shared, stored } = Given::start(image, config)?;
        let (process, mode) = Process::start(image, config, plug, (&shared, &stored))?;
        timings.set_restore_mode(mode);
        timings.step("process");
        let handle: Arc<dyn MachineHandle> = Arc::new(process.client().clone());
        let owner = Owner::Worker { process };
        let kept = Kept::of(&stored, &handle);
        Ok(Self { kept, network, ..Self::new(handle, Some(image.clone()), timings, owner) })
    }

    #[inline(never)]
    fn start_here(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        let mut timings = Timings::start();
        let Given { network, plug, shared, stored } = Given::start(image, config)?;
        let (origin, mode) = image.origin(config.starts_on_demand())?;
        timings.set_restore_mode(mode);
        timings.step(if mode == RestoreMode::Expanded { "expand" } else { "open" });
        let (link, setup) = plugged(plug)?;
        let ends = shared.iter().map(Shared::end).collect();
        let volumes = stored.iter().map(Stored::end).collect();
        let snapshot = Arc::clone(image.snapshot());
        let parts = Restore { snapshot, origin, network: link, shares: ends, volumes };
        let shares = shared.iter().map(Shared::setup).collect();
        let volumes = stored.iter().map(Stored::setup).collect();
        let setup = Setup { hostname: config.hostname(), network: setup, shares, volumes };
        let machine = LocalMachine::start(parts, setup, &mut timings)?;
        let (handle, owner) = (machine.handle(), Owner::Local(machine));
        let kept = Kept::of(&stored, &handle);
        Ok(Self { kept, network, ..Self::new(handle, Some(image.clone()), timings, owner) })
    }

    fn new(
        handle: Arc<dyn MachineHandle>,
        image: Option<Image>,
        timings: Timings,
        owner: Owner,
    ) -> Self {
        let (kept, network) = (Kept::none(), Attached::default());
        Self { kept, dialer: Dialer::new(&handle), handle, image, timings, owner, network }
    }

    /// Runs a command until it exits, and collects its output.
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

    /// Describes a command.
    pub fn exec_builder(&self) -> ExecBuilder<'_> {
        ExecBuilder::new(&self.handle)
    }

    /// Writes a file in place; a new file gets mode 0644 and belongs to root. See
    /// [`file`](Self::file) for more.
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

    /// Reads a regular file into memory; see [`file_reader`](Self::file_reader) for large ones.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        self.file_reader(path)?.content()
    }

    /// Describes a write to a file: its mode, its owner, and whether to append.
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
        FileBuilder::new(&self.handle, path.as_ref())
    }

    /// Reads a regular file of any length as a stream.
    ///
    /// # Errors
    /// The path is invalid, or no stream can be opened. An error of the guest comes with the first
    /// read.
    pub fn file_reader(&self, path: impl AsRef<Path>) -> Result<FileReader, Error> {
        FileReader::open(&self.handle, path.as_ref())
    }

    /// Writes a file of any length as a stream.
    ///
    /// # Errors
    /// Those of [`FileBuilder::writer`].
    pub fn file_writer(&self, path: impl AsRef<Path>) -> Result<FileWriter, Error> {
        self.file(path).writer()
    }

    /// Unpacks a tar archive into a directory of the guest, which is created if missing.
    ///
    /// Owners, modes, times and links come from the archive; existing entries of the same names are
    /// replaced. After an error, entries that were already unpacked stay.
    ///
    /// # Errors
    /// [`Error::Agent`]: the archive is malformed or has names with `..`, or the guest's error
    /// number with the path. [`Error::Transfer`] when the archive cannot be read.
    pub fn copy_in(&self, path: impl AsRef<Path>, mut tar: impl Read) -> Result<(), Error> {
        crate::files::copy_in(&self.handle, path.as_ref(), &mut tar)
    }

    /// Packs a file or a directory tree of the guest into a tar archive.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path. [`Error::Transfer`] when the
    /// archive cannot be written.
    pub fn copy_out(&self, path: impl AsRef<Path>, mut tar: impl Write) -> Result<(), Error> {
        crate::files::copy_out(&self.handle, path.as_ref(), &mut tar)
    }

    /// Sends a signal to the image's entrypoint.
    ///
    /// # Errors
    /// The number is not a signal; [`Error::Agent`] when the entrypoint has exited.
    pub fn workload_signal(&self, signal: i32) -> Result<(), Error> {
        let signal = signal_number(signal)?;
        match self.ask(&Request::SignalEntrypoint { signal })?.only()? {
            Reply::Done => Ok(()),
            _ => Err(Error::unexpected("signal")),
        }
    }

    /// Waits for the image's entrypoint to exit. Returns at once if it has.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest exits instead.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        match self.ask(&Request::WaitEntrypoint)?.only()? {
            Reply::Exited(exit) => Ok(ExitStatus(exit.status)),
            _ => Err(Error::unexpected("wait")),
        }
    }

    /// Waits for the image's entrypoint to exit, for at most `limit`. `None`: it still runs.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest exits instead; `limit` is zero.
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        let mut replies = self.ask(&Request::WaitEntrypoint)?;
        replies.set_limit(Some(limit))?;
        match replies.only() {
            Ok(Reply::Exited(exit)) => Ok(Some(ExitStatus(exit.status))),
            Ok(_) => Err(Error::unexpected("wait")),
            Err(Error::Unanswered { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Passes on the last 64 KiB that the image's entrypoint has written, including output from
    /// before the snapshot; older output is not kept. Returns its exit status, or `None` while it
    /// runs.
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
    /// [`Error::Agent`] when the image has no entrypoint, [`Error::Guest`] when the guest exits,
    /// and [`Error::Transfer`] when a writer fails.
    pub fn logs_to(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<Option<ExitStatus>, Error> {
        self.pass_logs(false, stdout, stderr)
    }

    /// Like [`logs_to`](Self::logs_to), and continues until the entrypoint exits. A reader that is
    /// slower than the entrypoint loses output beyond the last 64 KiB.
    ///
    /// # Errors
    /// Those of [`logs_to`](Self::logs_to).
    pub fn follow_logs_to(
        &self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExitStatus, Error> {
        let ended = self.pass_logs(true, stdout, stderr)?;
        ended.ok_or_else(|| Error::unexpected("logs"))
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
                _ => return Err(Error::unexpected("logs")),
            }
        }
    }

    /// The machine's current use of guest memory and of this host's processors.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has exited.
    pub fn stats(&self) -> Result<VmStats, Error> {
        VmStats::new(&self.ask(&Request::Memory)?.only()?, self.handle.usage()?)
    }

    /// Pauses the guest until [`resume`](Self::resume). It uses no processor, and keeps its memory.
    /// Pausing a paused machine is a no-op.
    ///
    /// Commands, files and connections wait until the guest resumes. Its clock does not stop: a
    /// command whose timeout passes during the pause is killed when the guest resumes, and the host
    /// gives it up ten seconds after its timeout. [`snapshot`](Self::snapshot),
    /// [`console`](Self::console), [`stop`](Self::stop) and dropping work on a paused machine. A
    /// pooled machine resumes when it returns to its pool.
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
    /// [`Error::Guest`] when the guest has exited.
    pub fn pause(&self) -> Result<(), Error> {
        self.handle.pause()
    }

    /// Resumes a paused machine and sets its wall clock. Resuming a running machine is a no-op.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.handle.resume()
    }

    /// Has the guest write everything that its programs have written to the machine's volumes. Stopping and
    /// dropping a machine do so; a process that exits without either calls this first. A paused guest
    /// runs again. Does nothing for a machine without volumes, or with scratch disks and read-only ones only.
    ///
    /// # Errors
    /// The guest did not answer within 30 seconds, or has exited.
    pub fn write_back(&self) -> Result<(), Error> {
        self.kept.write_back()()
    }

    /// The same, for a thread of its own.
    #[cfg(feature = "tokio")]
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes a snapshot of the running machine, into the store that holds its own snapshot. The
    /// guest pauses for some milliseconds. Machines that start from the new snapshot find their
    /// streams to the host closed. While another process takes the snapshot of its machine, it
    /// opens no stream for this one.
    ///
    /// # Errors
    /// The machine's snapshot is not in a store, the name is invalid, or the guest or the store cannot
    /// be read or written.
    pub fn snapshot(&self, name: &str) -> Result<TakenSnapshot, Error> {
        live::take(self.handle.as_ref(), self.image.as_ref(), name)
    }

    /// Starts machines that continue from where this one is. See [`fork_with`](Self::fork_with).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), supermachine::Error> {
    /// # let image = supermachine::Image::from_snapshot("names/python3")?;
    /// # let vm = image.start(&supermachine::VmConfig::new())?;
    /// vm.write_file("/tmp/input", "the same for all")?;
    /// for (number, fork) in vm.fork(16)?.iter().enumerate() {
    ///     fork.exec(["python3", "/srv/try.py", &number.to_string()])?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`fork_with`](Self::fork_with).
    pub fn fork(&self, count: usize) -> Result<Vec<Self>, Error> {
        self.fork_with(count, &VmConfig::new())
    }

    /// Starts machines that continue from where this one is: files, processes and memory are those
    /// of this moment. The guest pauses for some milliseconds, and continues with all its streams.
    ///
    /// Each fork has its own clock, entropy and ids, and finds its streams to the host closed: it is
    /// set up as a machine that starts from a snapshot, with the network that `config` has. Pages are shared with the other forks until
    /// one writes to them. Nothing is written to a file system, and this machine may stop before
    /// its forks. A fork of a paused machine runs.
    ///
    /// # Errors
    /// The configuration requires another machine, another process holds this one, the guest has
    /// exited, or the host has no memory. Forks that have started are stopped then.
    pub fn fork_with(&self, count: usize, config: &VmConfig) -> Result<Vec<Self>, Error> {
        Self::forks_of(self.handle.as_ref(), self.image.as_ref(), count, config)
    }

    /// Forks of a machine that started from `origin`.
    pub(crate) fn forks_of(
        machine: &dyn MachineHandle,
        origin: Option<&Image>,
        count: usize,
        config: &VmConfig,
    ) -> Result<Vec<Self>, Error> {
        let elsewhere = || Error::Worker { source: WorkerError::HeldElsewhere };
        let origin = origin.ok_or_else(elsewhere)?;
        origin.require(config)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let image = live::fork(machine, origin)?;
        (0..count).map(|_| Self::start(&image, config)).collect()
    }

    /// What the machine's network has done; `None` without a network, or when another process started
    /// the machine.
    #[cfg(feature = "net")]
    #[must_use]
    pub fn network_stats(&self) -> Option<crate::NetworkStats> {
        self.network.stats()
    }

    /// How long each step of the start took. Empty for a machine that another process holds.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The last of the guest kernel's messages. Empty when another process holds the machine and
    /// does not answer.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.handle.console().unwrap_or_default()
    }

    /// Stops the machine, and reports a guest that had already failed.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had exited by itself.
    pub fn stop(mut self) -> Result<(), Error> {
        self.kept.finish();
        self.handle.stop()
    }

    /// Resets the machine to its snapshot and runs it for the next user. After an error it must not
    /// be used again.
    pub(crate) fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        let mut timings = Timings::start();
        timings.set_restore_mode(self.timings.restore_mode());
        self.dialer.close();
        let Some(image) = &self.image else { return Err(MachineError::Unresettable.into()) };
        let plug = self.network.renew()?;
        let shared = shares::start(config, image.snapshot())?;
        let stored = disks::start(config, image.snapshot())?;
        let ends = (&*shared, &*stored);
        self.handle = match &mut self.owner {
            Owner::Local(machine) => {
                machine.reset(config.hostname(), plug, ends, &mut timings)?;
                machine.handle()
            }
            Owner::Worker { process } => {
                process.reset(config, plug, ends)?;
                timings.step("process");
                Arc::new(process.client().clone())
            }
            Owner::Other => return Err(MachineError::Unresettable.into()),
        };
        self.dialer = Dialer::new(&self.handle);
        self.timings = timings;
        Ok(())
    }

    /// Closes the forwards of the present user; the next user has forwards of its own.
    pub(crate) fn close_forwards(&mut self) {
        self.dialer.close();
        self.dialer = Dialer::new(&self.handle);
    }

    fn hosted(self) -> Hosted {
        let (handle, image) = (Arc::clone(&self.handle), self.image.clone());
        Hosted::new(handle, image, Box::new(self))
    }

    /// Sends a request to the agent.
    fn ask(&self, request: &Request) -> Result<Replies, Error> {
        Ok(Replies::on(AgentStream::open(&self.handle, &frame(request)?)?))
    }

    /// Opens the streams of forwards.
    pub(crate) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// The machine itself, for the baker.
    ///
    /// # Errors
    /// [`Error::Worker`] when another process holds it.
    #[doc(hidden)]
    pub fn machine(&self) -> Result<&Machine, Error> {
        match &self.owner {
            Owner::Local(machine) => Ok(machine.machine()),
            Owner::Worker { .. } | Owner::Other => {
                Err(Error::Worker { source: WorkerError::HeldElsewhere })
            }
        }
    }

    /// The machine's handle. It does not keep the machine running.
    pub(crate) fn handle(&self) -> &Arc<dyn MachineHandle> {
        &self.handle
    }

    /// The image it started from; `None` if another process started it.
    #[cfg(feature = "tokio")]
    pub(crate) fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }
}

/// A shared machine is not reset: its other users would not know.
impl worker::Owner for Vm {}

impl Client {
    /// The machine, as if this process held it. When the `Vm` is dropped, its forwards close and
    /// the machine keeps running; [`Vm::stop`] is [`Client::stop`].
    #[must_use]
    pub fn vm(&self) -> Vm {
        Vm::new(Arc::new(self.clone()), None, Timings::start(), Owner::Other)
    }
}

impl Server {
    /// Serves the machine until a client stops it, or no client can connect any more: the socket
    /// file is gone, and no client is connected. `label` is part of the status that clients get;
    /// it is cut off after 64 KiB. A guest that exits by itself does not end this.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn serve(self, vm: Vm, label: impl Into<String>) -> Result<Stopped, Error> {
        self.prepare(vm, label)?.run()
    }

    /// Like [`serve`](Self::serve), in two steps: between them, [`Serving::control`] gives other threads
    /// the means to replace the machine.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn prepare(self, vm: Vm, label: impl Into<String>) -> Result<Serving, Error> {
        self.prepare_hosted(vm.hosted(), label.into())
    }
}

impl Control {
    /// The machine, as if this were a client. `None` once it was stopped.
    #[must_use]
    pub fn vm(&self) -> Option<Vm> {
        Some(Vm::new(self.handle()?, None, Timings::start(), Owner::Other))
    }

    /// Serves `vm` with this label from now on, and stops the present machine: its streams close.
    /// Clients stay connected.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the present machine was stopped already. Then `vm` stops, too.
    pub fn replace(&self, vm: Vm, label: impl Into<String>) -> Result<(), Error> {
        self.replace_hosted(vm.hosted(), label.into())
    }
}
