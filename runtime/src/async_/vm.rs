//! A running machine, awaited.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use supermachine_formats::wire::{Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::exec::ExecBuilder;
use super::files::{FileBuilder, FileReader, FileWriter, copy_in, copy_out};
use super::logs::pass_logs;
use super::request::only;
use crate::agent::signal_number;
use crate::live;
use crate::machine::MachineHandle;
use crate::{Error, ExecOutcome, ExitStatus, Image, TakenSnapshot, Timings, VmConfig, VmStats};

/// A running machine. Dropping it stops it.
///
/// Its methods are those of the blocking [`Vm`](crate::Vm). See the [module](super) for the runtime
/// that they need, and for dropped futures.
#[derive(Debug)]
pub struct Vm(Owner);

/// The owner of the machine.
#[derive(Debug)]
enum Owner {
    Own(crate::Vm),
    Pool(crate::PooledVm),
}

impl Vm {
    /// Starts a machine from an image's snapshot, on a thread of the runtime for blocking work.
    /// When the future is dropped, the machine stops as soon as it has started.
    ///
    /// # Errors
    /// The configuration requires another machine than the snapshot holds, or the host
    /// cannot run it.
    pub async fn start(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        let (image, config) = (image.clone(), config.clone());
        beside(move || crate::Vm::start(&image, &config)).await.map(Self::from)
    }

    pub(super) fn pooled(vm: crate::PooledVm) -> Self {
        Self(Owner::Pool(vm))
    }

    /// Runs a command until it exits, and collects its output. When the future is dropped, the
    /// command is killed.
    ///
    /// # Errors
    /// Those of [`ExecBuilder::output`](crate::ExecBuilder::output).
    pub async fn exec<I>(&self, argv: I) -> Result<ExecOutcome, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<std::ffi::OsStr>,
    {
        self.exec_builder().argv(argv).output().await
    }

    /// Describes a command.
    pub fn exec_builder(&self) -> ExecBuilder<'_> {
        ExecBuilder::new(self.handle())
    }

    /// Writes a file in place; a new file gets mode 0644 and belongs to root. See
    /// [`file`](Self::file) for more.
    ///
    /// # Errors
    /// Those of [`FileBuilder::write`](crate::FileBuilder::write).
    pub async fn write_file(
        &self,
        path: impl AsRef<Path>,
        content: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.file(path).write(content).await
    }

    /// Reads a regular file into memory; see [`file_reader`](Self::file_reader) for large ones.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub async fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        self.file_reader(path)?.content().await
    }

    /// Describes a write to a file: its mode, its owner, and whether to append.
    pub fn file(&self, path: impl AsRef<Path>) -> FileBuilder<'_> {
        FileBuilder::new(self.handle(), path.as_ref())
    }

    /// Reads a regular file of any length as a stream.
    ///
    /// # Errors
    /// The path is invalid, or no stream can be opened. An error of the guest comes with the first
    /// read.
    pub fn file_reader(&self, path: impl AsRef<Path>) -> Result<FileReader, Error> {
        FileReader::open(self.handle(), path.as_ref())
    }

    /// Writes a file of any length as a stream.
    ///
    /// # Errors
    /// The path is invalid, or no stream can be opened.
    pub fn file_writer(&self, path: impl AsRef<Path>) -> Result<FileWriter, Error> {
        self.file(path).writer()
    }

    /// Unpacks a tar archive into a directory of the guest, which is created if missing.
    ///
    /// Owners, modes, times and links come from the archive; existing entries of the same names are
    /// replaced. After an error, or when the future is dropped, entries that were already unpacked
    /// stay.
    ///
    /// # Errors
    /// [`Error::Agent`]: the archive is malformed or has names with `..`, or the guest's error
    /// number with the path. [`Error::Transfer`] when the archive cannot be read.
    pub async fn copy_in(
        &self,
        path: impl AsRef<Path>,
        mut tar: impl AsyncRead + Unpin,
    ) -> Result<(), Error> {
        copy_in(self.handle(), path.as_ref(), &mut tar).await
    }

    /// Packs a file or a directory tree of the guest into a tar archive.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path. [`Error::Transfer`] when the
    /// archive cannot be written.
    pub async fn copy_out(
        &self,
        path: impl AsRef<Path>,
        mut tar: impl AsyncWrite + Unpin,
    ) -> Result<(), Error> {
        copy_out(self.handle(), path.as_ref(), &mut tar).await
    }

    /// Sends a signal to the image's entrypoint.
    ///
    /// # Errors
    /// The number is not a signal; [`Error::Agent`] when the entrypoint has exited.
    pub async fn workload_signal(&self, signal: i32) -> Result<(), Error> {
        let signal = signal_number(signal)?;
        match only(self.handle(), &Request::SignalEntrypoint { signal }).await? {
            Reply::Done => Ok(()),
            _ => Err(Error::unexpected("signal")),
        }
    }

    /// Waits for the image's entrypoint to exit. Returns at once if it has.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest exits instead.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        match only(self.handle(), &Request::WaitEntrypoint).await? {
            Reply::Exited(exit) => Ok(ExitStatus(exit.status)),
            _ => Err(Error::unexpected("wait")),
        }
    }

    /// Waits for the image's entrypoint to exit, for at most `limit`. `None`: it still runs.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest exits instead.
    pub async fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        match timeout(limit, self.wait()).await {
            Ok(status) => status.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Passes on what the image's entrypoint has written; see the
    /// [blocking method](crate::Vm::logs_to). Returns its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// [`Error::Agent`] when the image has no entrypoint, [`Error::Guest`] when the guest exits, and
    /// [`Error::Transfer`] when a writer fails.
    pub async fn logs_to(
        &self,
        stdout: &mut (impl AsyncWrite + Unpin),
        stderr: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Option<ExitStatus>, Error> {
        pass_logs(self.handle(), false, stdout, stderr).await
    }

    /// Passes on what the image's entrypoint has written and writes until it exits; see the
    /// [blocking method](crate::Vm::follow_logs_to).
    ///
    /// # Errors
    /// Those of [`logs_to`](Self::logs_to).
    pub async fn follow_logs_to(
        &self,
        stdout: &mut (impl AsyncWrite + Unpin),
        stderr: &mut (impl AsyncWrite + Unpin),
    ) -> Result<ExitStatus, Error> {
        let status = pass_logs(self.handle(), true, stdout, stderr).await?;
        status.ok_or_else(|| Error::unexpected("logs"))
    }

    /// The machine's current use of guest memory and of this host's processors.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has exited.
    pub async fn stats(&self) -> Result<VmStats, Error> {
        VmStats::new(&only(self.handle(), &Request::Memory).await?, self.handle().usage()?)
    }

    /// Pauses the guest until [`resume`](Self::resume); see the [blocking
    /// method](crate::Vm::pause). When the future is dropped, the guest is paused all the same.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has exited.
    pub async fn pause(&self) -> Result<(), Error> {
        self.beside(|machine| machine.pause()).await
    }

    /// Has the guest write everything to the machine's volumes; see the [blocking
    /// method](crate::Vm::write_back). When the future is dropped, it is written all the same.
    ///
    /// # Errors
    /// The guest did not answer within 30 seconds, or has exited.
    pub async fn write_back(&self) -> Result<(), Error> {
        let (alive, work) = (self.handle().keep_alive(), self.blocking().kept().write_back());
        beside(move || {
            let done = work();
            drop(alive);
            done
        })
        .await
    }

    /// Resumes a paused machine and sets its wall clock. Resuming a running machine is a no-op.
    /// When the future is dropped, the guest resumes all the same.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has exited.
    pub async fn resume(&self) -> Result<(), Error> {
        self.beside(|machine| machine.resume()).await
    }

    /// Takes a snapshot of the running machine, into the store that holds its own snapshot, on a
    /// thread of the runtime for blocking work. When the future is dropped, the snapshot is taken
    /// all the same; the machine runs until then, and does not return to its pool.
    ///
    /// # Errors
    /// The machine's snapshot is not in a store, the name is invalid, or the guest or the store cannot
    /// be read or written.
    pub async fn snapshot(&self, name: &str) -> Result<TakenSnapshot, Error> {
        let (name, image) = (name.to_owned(), self.blocking().image().cloned());
        self.beside(move |machine| live::take(machine, image.as_ref(), &name)).await
    }

    /// Starts machines that continue from where this one is. See [`fork_with`](Self::fork_with).
    ///
    /// # Errors
    /// Those of [`fork_with`](Self::fork_with).
    pub async fn fork(&self, count: usize) -> Result<Vec<Self>, Error> {
        self.fork_with(count, &VmConfig::new()).await
    }

    /// Starts machines that continue from where this one is, as
    /// [`Vm::fork_with`](crate::Vm::fork_with) does, on a thread of the runtime for blocking work.
    /// When the future is dropped, the forks stop as soon as they have started; this machine runs
    /// until then, and does not return to its pool.
    ///
    /// # Errors
    /// Those of [`Vm::fork_with`](crate::Vm::fork_with).
    pub async fn fork_with(&self, count: usize, config: &VmConfig) -> Result<Vec<Self>, Error> {
        let (image, config) = (self.blocking().image().cloned(), config.clone());
        let forks = self
            .beside(move |machine| crate::Vm::forks_of(machine, image.as_ref(), count, &config));
        Ok(forks.await?.into_iter().map(Self::from).collect())
    }

    /// How long each step of the start took.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        self.blocking().timings()
    }

    /// The last of the guest kernel's messages.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.blocking().console()
    }

    /// Stops the machine, and reports a guest that had already failed. Dropping a machine instead
    /// stops it on the dropping thread, which takes some hundred microseconds.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had exited by itself.
    pub async fn stop(self) -> Result<(), Error> {
        beside(move || match self.0 {
            Owner::Own(vm) => vm.stop(),
            Owner::Pool(vm) => vm.into_inner().stop(),
        })
        .await
    }

    /// The machine, for blocking calls.
    #[must_use]
    pub fn blocking(&self) -> &crate::Vm {
        match &self.0 {
            Owner::Own(vm) => vm,
            Owner::Pool(vm) => vm,
        }
    }

    fn handle(&self) -> &Arc<dyn MachineHandle> {
        self.blocking().handle()
    }

    /// Uses the machine on a thread for blocking work. It runs at least until that is done.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn MachineHandle) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let machine = Arc::clone(self.handle());
        let kept = machine.keep_alive();
        beside(move || {
            let done = work(machine.as_ref());
            drop(kept);
            done
        })
        .await
    }

    /// Takes it out of its pool, if it has one.
    pub(super) fn taken_out(self) -> Self {
        match self.0 {
            Owner::Own(_) => self,
            Owner::Pool(vm) => Self::from(vm.into_inner()),
        }
    }

    /// Stops it.
    pub(super) fn discard(self) {
        match self.0 {
            Owner::Own(vm) => drop(vm),
            Owner::Pool(vm) => vm.discard(),
        }
    }
}

impl From<crate::Vm> for Vm {
    fn from(vm: crate::Vm) -> Self {
        Self(Owner::Own(vm))
    }
}

/// Runs `work` on a thread for blocking work. It completes even if the future is dropped.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(Error::Cancelled),
        },
    }
}
