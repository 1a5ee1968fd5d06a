//! Starts a machine in the background. Its supervisor, a process of its own, holds it.
//!
//! The supervisor is this program, run as `supermachine supervise`. Its standard input is the lock on
//! the machine's name. Once it serves the machine, it prints the label as one line on standard output.
//! If it fails before, it prints why on standard error. After the label it prints nothing.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use supermachine::worker;

use crate::error::{BackgroundError, Error};
use crate::label::{Label, MachineOptions};
use crate::machines::{Claim, Machines};
use crate::ports::Publish;

/// A machine to start in the background.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) store: &'a Path,
    /// The snapshot's name.
    pub(crate) snapshot: &'a str,
    /// The machine's name. `None` is a free name that starts with the snapshot's.
    pub(crate) name: Option<&'a str>,
    pub(crate) publish: &'a [Publish],
    pub(crate) options: &'a MachineOptions,
}

/// Starts a machine from a snapshot, and returns its label.
pub(crate) fn start(machine: &Start<'_>) -> Result<Label, Error> {
    let claim = Machines::locate().claim(machine.name, machine.snapshot)?;
    let started = spawn(&claim, machine).and_then(read_label);
    if started.is_err() {
        // The supervisor has exited, or never started. The first error matters.
        let _ = claim.release();
    }
    started
}

fn spawn(claim: &Claim, machine: &Start<'_>) -> Result<Child, Error> {
    let failed = |source| BackgroundError::Spawn { source };
    worker::inherit_nothing().map_err(failed)?;
    let mut arguments: Vec<OsString> =
        vec!["supervise".into(), "--store".into(), machine.store.into()];
    for publish in machine.publish {
        arguments.extend(["--publish".into(), publish.to_string().into()]);
    }
    // Serialization fails only for maps with keys that are not strings.
    let options = serde_json::to_string(machine.options).unwrap_or_default();
    arguments.extend(["--options".into(), options.into()]);
    arguments.extend([machine.snapshot.into(), claim.name().into()]);
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    // The supervisor must not keep the current folder busy.
    command.args(arguments).current_dir("/").stdin(Stdio::from(claim.lock()?));
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?)
}

/// Waits until the supervisor serves its machine, or has failed.
fn read_label(mut supervisor: Child) -> Result<Label, Error> {
    let mut line = String::new();
    if let Some(stdout) = supervisor.stdout.take() {
        // An incomplete line counts as no label.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if let Some(label) = line.strip_suffix('\n').and_then(Label::parse) {
        return Ok(label);
    }
    let mut reason = Vec::new();
    if let Some(mut stderr) = supervisor.stderr.take() {
        // An incomplete reason is better than none.
        let _ = stderr.read_to_end(&mut reason);
    }
    let status = supervisor.wait().map_err(|source| BackgroundError::Spawn { source })?;
    let reason = String::from_utf8_lossy(&reason);
    let reason = reason.trim().trim_start_matches("error: ");
    let reason = if reason.is_empty() { status.to_string() } else { reason.to_owned() };
    Err(BackgroundError::NotStarted { reason }.into())
}
