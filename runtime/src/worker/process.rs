//! A machine in a process of its own: the side of the process that started it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Client;
use super::message::Order;
use crate::{AssetPaths, Error, Image, VmConfig, Way};

/// A process that holds a machine for this one. Both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    client: Client,
}

impl Process {
    /// Starts a machine in a process of its own.
    pub(crate) fn start(image: &Image, config: &VmConfig) -> Result<(Self, Way), Error> {
        let order = order(image, config)?;
        let assets = config.assets().cloned().unwrap_or_else(AssetPaths::discover);
        let program = assets
            .worker()
            .ok_or_else(|| Error::NoWorker { folders: assets.folders().to_owned() })?;
        let failed = |source| Error::WorkerNotStarted { path: program.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&program);
        command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        // A key that ends the app in a terminal leaves it time to end its machines.
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // What is theirs must not stay here, or nobody would see that they have ended.
        drop(command);
        match Client::greeted(ours, &program, child.id(), None) {
            Ok(client) => {
                let process = Self { child, client };
                let way = process.client.start(order)?;
                Ok((process, way))
            }
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Who asks it.
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

/// Ends a process at once: what a machine's process does with files can be broken off anywhere.
fn end(child: &mut Child) {
    // It fails for a process that has ended, and that one only needs to be waited for.
    let _ = child.kill();
    let _ = child.wait();
}

fn order(image: &Image, config: &VmConfig) -> Result<Order, Error> {
    let pack = if image.source().is_embedded() {
        // Nobody else can read it from this program.
        image.mapped()?;
        PathBuf::new()
    } else {
        absolute(image.source().path())
    };
    Ok(Order {
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
