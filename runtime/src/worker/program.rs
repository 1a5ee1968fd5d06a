//! The program `supermachine-worker`: it holds one machine for the process that started it.
//!
//! Its standard input is the connection, and the first request starts the machine. It exits when
//! the connection closes, so the machine never outlives the process that started it.
//!
//! Invariant: it opens the host's devices before its first request, and no path after that. Memory,
//! disks and pack arrive as descriptors, and captures leave as descriptors.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use super::ends::{self, MAX_END_FILES, OpenedEnds};
use super::message::{WorkerReply, WorkerRequest};
use super::parcel::Parcel;
use super::parts;
use super::server::{Hosted, Owner, failed, greet, say, serve_one};
use crate::agent::read_message;
use crate::machine::{LocalMachine, MachineHandle, Setup};
use crate::{Error, os};
use supermachine_formats::pack::{MAX_BLOBS, MAX_INDEX_SIZE, MAX_SPACES, MAX_STATE_SIZE};
use supermachine_vmm::{Timings, host};

/// The most bytes of the parts of a machine: state and index, and as much again for short lists.
const MAX_PARTS: u64 = 2 * (MAX_STATE_SIZE + MAX_INDEX_SIZE);
/// The most files: blobs, or memory and disks, and those of its ends.
const MAX_FILES: usize = MAX_BLOBS + MAX_SPACES + MAX_END_FILES;
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
    unsafe { main_locked(|| ()) }
}

/// The same. `lock` is called before the worker hears of a machine: from then on, it opens no path.
///
/// # Safety
/// That of [`main`].
#[doc(hidden)]
#[must_use]
pub unsafe fn main_locked(lock: impl FnOnce()) -> ExitCode {
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
    host::open_ahead();
    lock();
    hold(client, start);
    ExitCode::SUCCESS
}

/// Starts the machine that the client asks for, and serves it until the client is gone. `start`
/// starts a machine of this host name.
pub(super) fn hold(
    mut client: UnixStream,
    start: impl FnOnce(Option<&str>, Parcel) -> Result<Hosted, Error>,
) {
    if greet(&mut client).is_none() {
        return;
    }
    let Ok(WorkerRequest::Start { hostname }) = read_message(&mut client, None) else { return };
    let started = Parcel::receive(&mut client, MAX_PARTS, MAX_FILES)
        .map_err(Error::stream)
        .and_then(|parts| start(hostname.as_deref(), parts));
    match started {
        Ok(machine) => {
            if say(&mut client, &WorkerReply::Done).is_some() {
                // A process without descriptors shows that by its exit.
                let _ = serve_one(client, machine);
            }
        }
        // A client that is gone needs no reason.
        Err(error) => drop(say(&mut client, &failed(&error))),
    }
}

impl Owner for LocalMachine {
    fn reset(
        &mut self,
        hostname: Option<&str>,
        ends: Parcel,
    ) -> Result<Arc<dyn MachineHandle>, Error> {
        let OpenedEnds { plug, shared, stored } = ends::open(ends)?;
        Self::reset(self, hostname, plug, (&shared, &stored), &mut Timings::start())?;
        Ok(self.handle())
    }
}

fn start(hostname: Option<&str>, parts: Parcel) -> Result<Hosted, Error> {
    let (parts, setup) = parts::open(parts)?;
    let setup = Setup { hostname, ..setup };
    let machine = LocalMachine::start(parts, setup, &mut Timings::start())?;
    Ok(Hosted::new(machine.handle(), None, Box::new(machine)))
}
