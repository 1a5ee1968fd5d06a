//! Machines that were stopped: their logs and exit statuses.
//!
//! A folder per name in the registry, `stopped/NAME`, holds a log of both streams and a description. It
//! stays until `rm`, or the next machine of that name. Stopping a machine writes it; the log is as large
//! as the guest keeps it, 64 KiB, and up to 1 MiB more of a machine that restarted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use supermachine::Vm;

use crate::error::Error;
use crate::label::Label;
use crate::machines::Machines;
use crate::process;
use crate::stream_log::{self, CopyError, Stream};

const LOG: &str = "log";
const DESCRIPTION: &str = "machine.json";

/// A machine that was stopped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoppedMachine {
    pub(crate) label: Label,
    /// The exit status of the entrypoint, as a shell reports it. `None` if it was still running.
    pub(crate) status: Option<u8>,
    /// When the machine was stopped, in seconds since 1970.
    pub(crate) at: u64,
    #[serde(skip)]
    log: Vec<u8>,
}

impl StoppedMachine {
    /// Reads the logs of a machine that is about to stop. Returns `None` if the guest does not answer.
    /// `log` has the output before the present entrypoint's.
    pub(crate) fn read(
        machine: Vm,
        mut label: Label,
        log: Vec<u8>,
        limit: Duration,
    ) -> Option<Self> {
        let (sender, done) = channel();
        // The supervisor has kept the output of an entrypoint that is about to be replaced.
        let is_kept = label.restarts_at.take().is_some();
        let read = move || {
            let log = Arc::new(Mutex::new(log));
            let (mut stdout, mut stderr) = Stream::pair(&log);
            let status = if is_kept {
                machine.logs_to(&mut io::sink(), &mut io::sink())
            } else {
                machine.logs_to(&mut stdout, &mut stderr)
            };
            let log = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
            // The receiver may have timed out.
            let _ = sender.send(status.map(|status| (log, status)));
        };
        thread::Builder::new().name("logs".into()).spawn(read).ok()?;
        let (log, status) = done.recv_timeout(limit).ok()?.ok()?;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(Self { label, status: status.map(process::of_exit), at, log })
    }

    /// Finds a machine that was stopped.
    pub(crate) fn find(machines: &Machines, name: &str) -> Option<Self> {
        let text = fs::read(machines.stopped(name)?.join(DESCRIPTION)).ok()?;
        let mut machine: Self = serde_json::from_slice(&text).ok()?;
        // It may have got another name.
        name.clone_into(&mut machine.label.name);
        Some(machine)
    }

    /// Prints the log.
    pub(crate) fn print_log(
        machines: &Machines,
        name: &str,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<(), Error> {
        let Some(folder) = machines.stopped(name) else { return Ok(()) };
        let path = folder.join(LOG);
        let mut file = File::open(&path).map_err(Error::file("open", &path))?;
        stream_log::copy(&mut file, stdout, stderr).map_err(|error| match error {
            CopyError::Read(source) => Error::file("read", &path)(source),
            CopyError::Write(source) => Error::Output { source },
        })
    }
}

/// Keeps a stopped machine, unless another one has its name by now.
pub(crate) fn keep(machines: &Machines, machine: &StoppedMachine) -> Result<(), Error> {
    machines.keep_stopped(&machine.label.name, |folder: &Path| {
        fs::write(folder.join(LOG), &machine.log)?;
        fs::write(folder.join(DESCRIPTION), serde_json::to_vec(machine)?)
    })
}
