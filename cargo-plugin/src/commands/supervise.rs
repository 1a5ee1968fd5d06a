//! `supermachine supervise`: holds a machine in the background. [`crate::detach`] starts it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::Resource;
use supermachine::worker::{Server, Stopped};
use supermachine::{Image, VmConfig};

use crate::error::{BackgroundError, Error};
use crate::folders::FolderArg;
use crate::globals::Globals;
use crate::label::{Label, MachineOptions};
use crate::machines::{Claim, Machines};
use crate::network::NetworkArg;
use crate::ports::{self, PublishSpec};
use crate::store;
use crate::supervisor::{Start, Watch};

/// Hold a machine in the background; `run --detach` starts this
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Publish a port of the machine
    #[arg(long, value_name = "[ADDRESS:]HOST:GUEST[/udp]")]
    publish: Vec<PublishSpec>,
    /// The options of the machine, as JSON
    #[arg(long, value_name = "JSON", value_parser = options)]
    options: Option<MachineOptions>,
    /// Start this snapshot
    snapshot: String,
    /// Hold the machine of this name; standard input is the lock on the name
    name: String,
}

/// Holds the machine until it stops.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    // The machine outlives the terminal. This fails only in a process group leader, which
    // `run --detach` does not start.
    let _ = rustix::process::setsid();
    // Each connection to a port needs descriptors. Without a higher limit, fewer connections fit.
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    let stdin = io::stdin();
    let lock: OwnedFd =
        stdin.as_fd().try_clone_to_owned().map_err(|source| BackgroundError::Spawn { source })?;
    let claim = Machines::locate().inherited(&args.name, lock)?;
    let dir = store::dir(globals.store.as_deref())?;
    match hold(args, &dir, &claim) {
        Ok((stopped, watch)) => {
            watch.end();
            let released = claim.release();
            // The client that stopped the machine may reuse the name once it has its answer.
            drop(stopped);
            released.map(|()| 0)
        }
        Err(error) => {
            // The first error matters. The next command removes what is left.
            let _ = claim.release();
            Err(error)
        }
    }
}

fn hold(args: &Args, dir: &Path, claim: &Claim) -> Result<(Stopped, Watch), Error> {
    let server = Server::bind(claim.socket())?;
    let image = Image::from_store(dir, &args.snapshot)?;
    let options = args.options.clone().unwrap_or_default();
    let mut config = VmConfig::new();
    if let Some(hostname) = &options.hostname {
        config = config.with_hostname(hostname);
    }
    if let Some(network) = &options.network {
        let network: NetworkArg =
            network.parse().map_err(|reason| BackgroundError::Network { reason })?;
        config = network.apply(config, false);
    }
    config = FolderArg::apply_all(&options.folders, config);
    let vm = image.start(&config)?;
    let opened = ports::open(&vm, &ports::all(&args.publish))?;
    let (guards, ports): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let label = Label::new(claim.name(), (dir, &args.snapshot), &image, ports, options);
    let tracked = claim.tracked()?;
    let serving = server.prepare(vm, label.line())?.reachable_while({
        let tracked = tracked.clone();
        move || tracked.folder().is_some()
    });
    let start = Start { image, config };
    let watch = Watch::begin(start, serving.control(), label.clone(), tracked, guards)?;
    if let Err(source) = announce(&label) {
        // The starter has gone, and nobody else knows about the machine.
        watch.end();
        return Err(Error::Output { source });
    }
    Ok((serving.run()?, watch))
}

/// Prints the label, and detaches from the standard streams.
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

fn options(text: &str) -> Result<MachineOptions, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
