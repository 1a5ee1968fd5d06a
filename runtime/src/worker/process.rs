//! Starting a worker that holds one machine for this process.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::RestoreMode;

use super::client::Client;
use super::message::StartRequest;
use crate::error::WorkerError;
use crate::{AssetPaths, Error, Image, VmConfig};

/// A worker that holds a machine for this process. Dropping it stops both.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    client: Client,
}

impl Process {
    /// Starts a machine in a new worker.
    pub(crate) fn start(image: &Image, config: &VmConfig) -> Result<(Self, RestoreMode), Error> {
        let order = order(image, config)?;
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
            Ok(client) => {
                let process = Self { child, client };
                let mode = process.client.start(order)?;
                Ok((process, mode))
            }
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

/// Kills a process, which is safe: a worker's file operations can be interrupted anywhere.
fn end(child: &mut Child) {
    // It fails for a process that has exited, which only needs the wait.
    let _ = child.kill();
    let _ = child.wait();
}

fn order(image: &Image, config: &VmConfig) -> Result<StartRequest, Error> {
    let pack = if image.source().is_embedded() {
        // No other process can read a pack that is embedded in this program.
        image.mapped()?;
        PathBuf::new()
    } else {
        absolute(image.source().path())
    };
    Ok(StartRequest {
        pack,
        digest: image.digest(),
        cache: absolute(image.cache()),
        hostname: config.hostname().map(str::to_owned),
        expands_first: !config.starts_on_demand(),
    })
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
