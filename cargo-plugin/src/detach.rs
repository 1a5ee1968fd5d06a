//! Starting a machine that runs by itself: a process of its own, its supervisor, holds it.
//!
//! The supervisor is this program, run as `supermachine supervise`. It finds the claim of its
//! machine's name on standard input, and tells what it serves on standard output, in one line. Before
//! that line it may fail, and says why on standard error; after it, it says nothing any more.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use supermachine::worker;

use crate::error::Error;
use crate::label::Label;
use crate::machines::{Claim, Machines};
use crate::ports::Publish;

/// Starts a machine of a snapshot, and returns what its supervisor tells of it.
pub(crate) fn start(
    store: &Path,
    snapshot: &str,
    name: Option<&str>,
    publish: &[Publish],
) -> Result<Label, Error> {
    let claim = Machines::locate().claim(name, snapshot)?;
    let started = spawn(&claim, store, snapshot, publish).and_then(hear);
    if started.is_err() {
        // The supervisor has ended by now, or never was. Why is what is to be told.
        let _ = claim.give_back();
    }
    started
}

fn spawn(claim: &Claim, store: &Path, snapshot: &str, publish: &[Publish]) -> Result<Child, Error> {
    let failed = |source| Error::Supervisor { source };
    worker::inherit_nothing().map_err(failed)?;
    let mut arguments: Vec<OsString> = vec!["supervise".into(), "--store".into(), store.into()];
    for publish in publish {
        arguments.extend(["--publish".into(), publish.to_string().into()]);
    }
    arguments.extend([snapshot.into(), claim.name().into()]);
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    // It outlives the folder that it was started in.
    command.args(arguments).current_dir("/").stdin(Stdio::from(claim.lock()?));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)
}

/// Waits until a supervisor serves its machine, or has failed.
fn hear(mut supervisor: Child) -> Result<Label, Error> {
    let mut line = String::new();
    if let Some(stdout) = supervisor.stdout.take() {
        // Half a line is as good as none.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if let Some(label) = line.strip_suffix('\n').and_then(Label::read) {
        return Ok(label);
    }
    let mut reason = Vec::new();
    if let Some(mut stderr) = supervisor.stderr.take() {
        // What was said until then is told.
        let _ = stderr.read_to_end(&mut reason);
    }
    let status = supervisor.wait().map_err(|source| Error::Supervisor { source })?;
    let reason = String::from_utf8_lossy(&reason);
    let reason = reason.trim().trim_start_matches("error: ");
    let reason = if reason.is_empty() { status.to_string() } else { reason.to_owned() };
    Err(Error::NotDetached { reason })
}
