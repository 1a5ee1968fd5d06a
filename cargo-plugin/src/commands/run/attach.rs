//! Attaches to the entrypoint that a snapshot has already started.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use supermachine::{ExitStatus, Vm};

use crate::error::{Error, HostError};
use crate::process::{self, signals};
use crate::{format, report};

const TIMED_OUT: u8 = 124;

/// Prints the output of the running entrypoint, passes signals on to it, and returns its exit status.
/// Returns `None` if it does not run.
pub(super) fn attach(vm: &Arc<Vm>, timeout: Option<Duration>) -> Result<Option<u8>, Error> {
    match vm.logs_to(&mut io::sink(), &mut io::sink()) {
        Ok(None) => {}
        // It has exited, or the snapshot has none.
        Ok(Some(_)) | Err(supermachine::Error::Agent { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let machine = Arc::clone(vm);
    // The entrypoint may have exited.
    let forwarding = signals::forward(move |signal| drop(machine.workload_signal(signal)))?;
    let Some(status) = follow(vm, timeout)? else { return Ok(Some(TIMED_OUT)) };
    forwarding.die_of_interrupt(status);
    Ok(Some(process::of_exit(status)))
}

/// Prints the output until the entrypoint exits. Returns `None` after the timeout.
fn follow(vm: &Arc<Vm>, timeout: Option<Duration>) -> Result<Option<ExitStatus>, Error> {
    let print = |vm: &Vm| vm.follow_logs_to(&mut io::stdout(), &mut io::stderr());
    let Some(limit) = timeout else { return Ok(Some(print(vm)?)) };
    let (sender, exited) = channel();
    let machine = Arc::clone(vm);
    let work = move || {
        // The receiver may have timed out.
        let _ = sender.send(print(&machine));
    };
    let thread = thread::Builder::new().name("logs".into()).spawn(work);
    thread.map_err(|source| HostError::Thread { source })?;
    match exited.recv_timeout(limit) {
        Ok(status) => Ok(Some(status?)),
        Err(_) => {
            report::note(&format!("machine stopped after {}, its timeout", format::time(limit)));
            Ok(None)
        }
    }
}
