//! The program `supermachine-worker`: a process that holds one machine for the one that started it.
//!
//! Its standard input is the connection, on which it is first told what to start. It ends when
//! that connection does, and so the machine ends with whoever started it, however that ended.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::message::{Answer, Ask, Order};
use super::server::{Guest, failed, greet, say, serve_one};
use super::sys;
use crate::agent::read_message;
use crate::{Error, Image, Vm, VmConfig, Way};

const USAGE: u8 = 2;

/// What `supermachine-worker` does. Nothing else needs it, but for a program that is to be the
/// worker itself.
#[must_use]
pub fn main() -> ExitCode {
    // What the app had open without care is not this process's.
    sys::close_inherited();
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let client = stdin.ok().filter(|client| sys::peer(client).is_ok_and(sys::is_trusted));
    let Some(client) = client else {
        let text = "supermachine-worker holds a machine for the program that starts it, through the \
                    library supermachine; it is of no use to anybody else";
        // Who has no standard error sees the status.
        let _ = writeln!(io::stderr(), "{text}");
        return USAGE.into();
    };
    hold(client, start);
    ExitCode::SUCCESS
}

/// Starts the machine that the client orders, and serves it to the client's end.
pub(super) fn hold<G: Guest + 'static>(
    mut client: UnixStream,
    start: impl FnOnce(&Order) -> Result<(G, Way), Error>,
) {
    if greet(&mut client).is_none() {
        return;
    }
    let Ok(Ask::Start(order)) = read_message(&mut client, None) else { return };
    match start(&order) {
        Ok((guest, way)) => {
            if say(&mut client, &Answer::Started { way }).is_some() {
                // A process without descriptors tells so by its end.
                let _ = serve_one(client, Box::new(guest));
            }
        }
        // A client that is gone needs no reason.
        Err(error) => drop(say(&mut client, &failed(&error))),
    }
}

fn start(order: &Order) -> Result<(Vm, Way), Error> {
    let image = if order.pack.as_os_str().is_empty() {
        Image::of_mapped(order.digest, &order.cache)?
    } else {
        Image::open(
            supermachine_snapshots::pack::Source::open(&order.pack)?,
            order.digest,
            &order.cache,
        )?
    };
    let mut config = VmConfig::new().with_expand_first(order.expands_first);
    if let Some(name) = &order.hostname {
        config = config.with_hostname(name);
    }
    let vm = image.start(&config)?;
    let way = vm.timings().way();
    Ok((vm, way))
}
