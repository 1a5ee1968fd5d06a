//! `supermachine supervise`: the process that holds a machine that runs by itself. See
//! [`crate::detach`], which starts it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::Resource;
use supermachine::worker::{Server, Stopped};
use supermachine::{Image, VmConfig};

use crate::error::Error;
use crate::label::Label;
use crate::machines::{Claim, Machines};
use crate::ports::{self, Publish};
use crate::{Globals, store};

/// Hold a machine that others use; started by `run --detach`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make a port of the machine reachable
    #[arg(long, value_name = "[ADDRESS:]HOST:GUEST")]
    publish: Vec<Publish>,
    /// The snapshot's name
    snapshot: String,
    /// The machine's name, of which the claim is standard input
    name: String,
}

/// Holds the machine to its end.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    // Neither its terminal's end nor what is typed there is meant for the machine. It fails only
    // where this process leads its group, and then it was not started by who it should.
    let _ = rustix::process::setsid();
    // Each connection to a port takes some descriptors. Where no more are allowed, fewer serve.
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let stdin = io::stdin();
    let lock: OwnedFd =
        stdin.as_fd().try_clone_to_owned().map_err(|source| Error::Supervisor { source })?;
    let claim = Machines::locate().inherited(&args.name, lock)?;
    let dir = store::dir(globals.store.as_deref())?;
    match hold(args, &dir, &claim) {
        Ok(stopped) => {
            let given_back = claim.give_back();
            // Who asked for the end may take the name again once told.
            drop(stopped);
            given_back.map(|()| 0)
        }
        Err(error) => {
            // Why it failed is what is to be told; a leftover is found by the next who looks.
            let _ = claim.give_back();
            Err(error)
        }
    }
}

fn hold(args: &Args, dir: &Path, claim: &Claim) -> Result<Stopped, Error> {
    let server = Server::bind(claim.socket())?;
    let image = Image::from_store(dir, &args.snapshot)?;
    let vm = image.start(&VmConfig::new())?;
    let (forwards, ports): (Vec<_>, Vec<_>) = ports::open(&vm, &args.publish)?.into_iter().unzip();
    let label = Label::new(claim.name(), &args.snapshot, &image, ports);
    // Whoever started this and is gone does not know that the machine runs: it ends.
    announce(&label).map_err(|source| Error::Output { source })?;
    let stopped = server.serve(vm, label.line())?;
    drop(forwards);
    Ok(stopped)
}

/// Tells of the machine, and lets go of whoever started this.
fn announce(label: &Label) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(label.line().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    let nowhere = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
