//! A running machine, for those who await.

use std::path::Path;

use supermachine_formats::wire::{Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;

use super::files::{FileBuilder, FileReader, FileWriter, copy_in, copy_out};
use super::request::only;
use crate::vm::signal_number;
use crate::{Error, ExecOutcome, ExitStatus, Image, Snapshotted, Timings, VmConfig, VmStats};

/// A running machine. It ends when it is dropped.
///
/// Its methods are those of the [`Vm`](crate::Vm) that blocks. See the [module](super) for what
/// they need of the runtime, and for what is left of one whose future is dropped.
#[derive(Debug)]
pub struct Vm(Holder);

/// Whose machine it is.
#[derive(Debug)]
enum Holder {
    Own(crate::Vm),
    Pool(crate::PooledVm),
}

impl Vm {
    /// Starts a machine from an image's snapshot, on a thread of the runtime's for blocking work.
    /// When the future is dropped, the machine ends as soon as it has started.
    ///
    /// # Errors
    /// The configuration requires another machine than the snapshot holds, or the host
    /// cannot run it.
    pub async fn start(image: &Image, config: &VmConfig) -> Result<Self, Error> {
        let (image, config) = (image.clone(), config.clone());
        beside(move || crate::Vm::start(&image, &config)).await.map(Self::from)
    }

    pub(super) fn pooled(vm: crate::PooledVm) -> Self {
        Self(Holder::Pool(vm))
    }

    /// Runs a command to its end and collects what it writes. When the future is dropped, the
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

    /// Begins to describe a command.
    pub fn exec_builder(&self) -> super::ExecBuilder<'_> {
        super::ExecBuilder::new(self)
    }

    /// Writes a file: in place, and new ones with mode 0644 as root's. See [`file`](Self::file)
    /// for more.
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

    /// Reads a regular file. For large ones there is [`file_reader`](Self::file_reader).
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path.
    pub async fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        self.file_reader(path)?.content().await
    }

    /// Begins to describe how a file is written: its mode, owner, and whether it is appended to.
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
    /// The path is not a possible one, or no stream can be opened.
    pub fn file_writer(&self, path: impl AsRef<Path>) -> Result<FileWriter, Error> {
        self.file(path).writer()
    }

    /// Unpacks a tar archive into a directory of the guest, which is made if need be.
    ///
    /// Owners, modes, times and links are those of the archive; what is there under the same
    /// names is replaced. If it fails, or the future is dropped, what was unpacked until then
    /// stays.
    ///
    /// # Errors
    /// [`Error::Agent`]: the archive is malformed or has names with `..`, or the guest's error
    /// number with the path. [`Error::Copy`] when the archive cannot be read.
    pub async fn copy_in(
        &self,
        path: impl AsRef<Path>,
        mut tar: impl AsyncRead + Unpin,
    ) -> Result<(), Error> {
        copy_in(self, path.as_ref(), &mut tar).await
    }

    /// Packs a file of the guest, or a directory and all in it, into a tar archive.
    ///
    /// # Errors
    /// [`Error::Agent`] with the guest's error number and the path. [`Error::Copy`] when the
    /// archive cannot be written.
    pub async fn copy_out(
        &self,
        path: impl AsRef<Path>,
        mut tar: impl AsyncWrite + Unpin,
    ) -> Result<(), Error> {
        copy_out(self, path.as_ref(), &mut tar).await
    }

    /// Sends a signal to the image's entrypoint.
    ///
    /// # Errors
    /// The number is no signal; [`Error::Agent`] when the entrypoint has ended.
    pub async fn workload_signal(&self, signal: i32) -> Result<(), Error> {
        let signal = signal_number(signal)?;
        match only(self.blocking(), &Request::SignalEntrypoint { signal }).await? {
            Reply::Done => Ok(()),
            _ => Err(Error::UnexpectedReply { request: "signal" }),
        }
    }

    /// Waits for the end of the image's entrypoint. Returns at once if it has ended before.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest ends instead.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        match only(self.blocking(), &Request::WaitEntrypoint).await? {
            Reply::Exited(exit) => Ok(ExitStatus(exit.status)),
            _ => Err(Error::UnexpectedReply { request: "wait" }),
        }
    }

    /// What the machine uses at present: the guest's memory and this host's processors.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub async fn stats(&self) -> Result<VmStats, Error> {
        let vm = self.blocking();
        VmStats::of(vm, only(vm, &Request::Memory).await?)
    }

    /// Has the guest stand still until [`resume`](Self::resume); see the
    /// [one that blocks](crate::Vm::pause). When the future is dropped, it is paused all the same.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub async fn pause(&self) -> Result<(), Error> {
        let holder = self.blocking().holder().clone();
        beside(move || holder.pause()).await
    }

    /// Lets a paused machine go on, with the host's wall clock. One that runs is left so.
    /// When the future is dropped, it goes on all the same.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest has ended.
    pub async fn resume(&self) -> Result<(), Error> {
        let holder = self.blocking().holder().clone();
        beside(move || holder.resume()).await
    }

    /// Takes a snapshot of the running machine into the store that its own snapshot lies in, on a
    /// thread of the runtime's for blocking work. When the future is dropped, the snapshot is taken
    /// all the same; the machine lives until then, and does not go back to its pool.
    ///
    /// # Errors
    /// The snapshot does not lie in a store, the name is not a possible one, or the guest or
    /// the store cannot be read or written.
    pub async fn snapshot(&self, name: &str) -> Result<Snapshotted, Error> {
        let holder = self.blocking().holder().clone();
        let name = name.to_owned();
        beside(move || holder.snapshot(&name)).await
    }

    /// How long each step of the start took.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        self.blocking().timings()
    }

    /// The end of the guest kernel's messages.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.blocking().console()
    }

    /// Ends the machine and tells whether the guest was still well. A machine that is dropped
    /// instead ends on the thread that drops it, which takes some hundred microseconds.
    ///
    /// # Errors
    /// [`Error::Guest`] when the guest had ended by itself.
    pub async fn stop(self) -> Result<(), Error> {
        beside(move || match self.0 {
            Holder::Own(vm) => vm.stop(),
            Holder::Pool(vm) => vm.into_inner().stop(),
        })
        .await
    }

    /// The machine, for calls that block.
    #[must_use]
    pub fn blocking(&self) -> &crate::Vm {
        match &self.0 {
            Holder::Own(vm) => vm,
            Holder::Pool(vm) => vm,
        }
    }

    /// Takes it out of its pool, if it is of one.
    pub(super) fn taken_out(self) -> Self {
        match self.0 {
            Holder::Own(_) => self,
            Holder::Pool(vm) => Self::from(vm.into_inner()),
        }
    }

    /// Has it end.
    pub(super) fn discard(self) {
        match self.0 {
            Holder::Own(vm) => drop(vm),
            Holder::Pool(vm) => vm.discard(),
        }
    }
}

impl From<crate::Vm> for Vm {
    fn from(vm: crate::Vm) -> Self {
        Self(Holder::Own(vm))
    }
}

/// Does what keeps a processor busy for a while on a thread for such work. It is done to its end
/// even if the future is dropped.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down.
            Err(_) => Err(Error::Abandoned),
        },
    }
}
