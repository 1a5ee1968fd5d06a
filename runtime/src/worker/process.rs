//! Starting a worker that holds one machine for this process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::client::Client;
use super::ends::{Ends, RemoteShare};
use super::parts;
use crate::disks::Stored;
use crate::error::{HostError, WorkerError};
use crate::image::Content;
use crate::network::Plug;
use crate::shares::{LANES, Shared, serve};
use crate::{AssetPaths, Error, Image, RestoreMode, VmConfig};

/// A worker that holds a machine for this process. Dropping it stops both.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    client: Client,
}

impl Process {
    /// Starts a machine in a new worker, which gets everything that it needs as descriptors.
    pub(crate) fn start(
        image: &Image,
        config: &VmConfig,
        plug: Option<Plug>,
        (shared, stored): (&[Shared], &[Stored]),
    ) -> Result<(Self, RestoreMode), Error> {
        if image.source().is_embedded() {
            // A pack that is embedded in this program has no descriptor, its mapped form has.
            image.mapped()?;
        }
        let (content, mode) = image.content(config.starts_on_demand())?;
        let signal = match &content {
            Content::Mapped(_) => None,
            Content::Pack(_) => Some(UnixStream::pair().map_err(Error::stream)?),
        };
        let (ours, theirs) = signal.unzip();
        let lanes = all_lanes(shared)?;
        let ends = Ends { plug: plug.as_ref(), shares: &lanes, volumes: stored };
        let parts = parts::pack(image.snapshot(), &content, theirs.as_ref(), &ends);
        let process = Self::spawn(config)?;
        process.client.start(config.hostname(), &parts)?;
        if let Some(signal) = ours {
            image.expand_after(signal);
        }
        Ok((process, mode))
    }

    /// Resets the machine for its next user. After an error it must not be used again.
    pub(crate) fn reset(
        &mut self,
        config: &VmConfig,
        plug: Option<Plug>,
        (shared, stored): (&[Shared], &[Stored]),
    ) -> Result<(), Error> {
        let lanes = all_lanes(shared)?;
        let ends = Ends { plug: plug.as_ref(), shares: &lanes, volumes: stored };
        self.client = self.client.reset(config.hostname(), &ends.pack())?;
        Ok(())
    }

    /// Starts a worker without a machine.
    fn spawn(config: &VmConfig) -> Result<Self, Error> {
        let assets = config.assets().cloned().unwrap_or_else(AssetPaths::discover);
        let program = assets.worker().ok_or_else(|| Error::Worker {
            source: WorkerError::NoProgram { folders: assets.folders().to_owned() },
        })?;
        let failed = |source| Error::Worker {
            source: WorkerError::NotStarted { path: program.clone(), source },
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&program);
        command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        // Ctrl-C in the app's terminal must not kill the worker before the app has stopped its
        // machines.
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // Drops this process's copy of the worker's socket, or its exit would go unnoticed.
        drop(command);
        match Client::greeted(ours, &program, child.id(), None) {
            Ok(client) => Ok(Self { child, client }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Its client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.client.mark_over();
        end(&mut self.child);
    }
}

fn all_lanes(shared: &[Shared]) -> Result<Vec<RemoteShare>, HostError> {
    let lanes = shared.iter().map(lanes).collect::<Result<Vec<_>, _>>();
    lanes.map_err(|source| HostError::Share { source })
}

/// Starts to answer for a folder from here. Returns what the worker gets.
fn lanes(shared: &Shared) -> io::Result<RemoteShare> {
    let mut streams = Vec::with_capacity(LANES);
    for _ in 0..LANES {
        let (ours, theirs) = UnixStream::pair()?;
        serve(Arc::clone(&shared.server), ours)?;
        streams.push(theirs);
    }
    Ok(RemoteShare { setup: shared.setup(), lanes: streams })
}

/// Kills a process, which is safe: a worker writes no file.
fn end(child: &mut Child) {
    // It fails for a process that has exited, which only needs the wait.
    let _ = child.kill();
    let _ = child.wait();
}
