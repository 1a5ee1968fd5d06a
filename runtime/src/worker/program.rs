//! The program `supermachine-worker`: it holds one machine for the process that started it.
//!
//! Its standard input is the connection, and the first request starts the machine. It exits when
//! the connection closes, so the machine never outlives the process that started it.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::message::{StartRequest, WorkerReply, WorkerRequest};
use super::server::{Hosted, failed, greet, say, serve_one};
use crate::RestoreMode;
use crate::agent::read_message;
use crate::machine::LocalMachine;
use crate::{Error, Image, VmConfig, os};
use supermachine_snapshots::pack::Source;
use supermachine_vmm::Timings;

const USAGE: u8 = 2;

/// The main function of `supermachine-worker`, for that program and for one that takes its place.
///
/// # Safety
/// It closes all descriptors but standard input, output and error, as the app may have passed some
/// on by accident. So it must be the first thing that the process does: no other code may own a
/// descriptor.
#[must_use]
pub unsafe fn main() -> ExitCode {
    // SAFETY: the caller promises it.
    unsafe { os::close_inherited() };
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let client = stdin.ok().filter(|client| os::peer(client).is_ok_and(os::is_trusted));
    let Some(client) = client else {
        let text = "supermachine-worker holds a machine for the program that starts it, through the \
                    library supermachine; it is of no use to anybody else";
        // Without a standard error, the exit status remains.
        let _ = writeln!(io::stderr(), "{text}");
        return USAGE.into();
    };
    hold(client, start);
    ExitCode::SUCCESS
}

/// Starts the machine that the client asks for, and serves it until the client is gone. `start`
/// returns the machine's handle, and its owner.
pub(super) fn hold(
    mut client: UnixStream,
    start: impl FnOnce(&StartRequest) -> Result<(Hosted, RestoreMode), Error>,
) {
    if greet(&mut client).is_none() {
        return;
    }
    let Ok(WorkerRequest::Start(request)) = read_message(&mut client, None) else { return };
    match start(&request) {
        Ok((machine, mode)) => {
            if say(&mut client, &WorkerReply::Started { mode }).is_some() {
                // A process without descriptors shows that by its exit.
                let _ = serve_one(client, machine);
            }
        }
        // A client that is gone needs no reason.
        Err(error) => drop(say(&mut client, &failed(&error))),
    }
}

fn start(request: &StartRequest) -> Result<(Hosted, RestoreMode), Error> {
    let image = if request.pack.as_os_str().is_empty() {
        Image::of_mapped(request.digest, &request.cache)?
    } else {
        Image::open(Source::open(&request.pack)?, request.digest, &request.cache)?
    };
    let mut config = VmConfig::new().with_expand_first(request.expands_first);
    if let Some(name) = &request.hostname {
        config = config.with_hostname(name);
    }
    let mut timings = Timings::start();
    let machine = LocalMachine::start(&image, &config, &mut timings)?;
    Ok((Hosted::new(machine.handle(), Box::new(machine)), timings.restore_mode()))
}
