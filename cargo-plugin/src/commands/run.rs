//! `supermachine run`: a snapshot is restored, a command run in it, and the machine ended; or the
//! machine goes on by itself.

use std::ffi::OsString;
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine::{Image, Timings, VmConfig};
use supermachine_baker::oci::ImageSource;
use supermachine_baker::{BakeError, Store};

use super::pull::{self, FetchArgs};
use crate::error::Error;
use crate::ports::{self, Port, Publish};
use crate::process::{self, ProcessArgs, STATUSES};
use crate::{Globals, detach, report, store};

const EXAMPLES: &str = "\
Examples:
  supermachine run redis -- redis-cli ping
  supermachine run -it busybox -- sh
  supermachine run -e LANG=C -w /tmp -u nobody busybox -- sh -c 'id; pwd'
  supermachine run --timeout 5 --timings python -- python3 -c 'print(6 * 7)'
  supermachine run -d --name web -p 8080:80 nginx

Each run has a fresh machine, and nothing of it is kept. The command's standard input is empty \
unless -i is given.

With -d no command is run: the machine goes on with its image's entrypoint, in the background, and \
its name is printed. `supermachine exec` runs commands in it, `ps` lists such machines, `stop` ends \
one.

";

/// Run a command in a machine restored from a snapshot
///
/// The machine goes on from the moment at which its image was ready. Output comes as it is written,
/// and the command's exit status is this one's.
#[derive(Debug, clap::Args)]
#[command(after_help = [EXAMPLES, STATUSES].concat())]
#[command(override_usage = "supermachine run [OPTIONS] <NAME|IMAGE> -- <COMMAND> [ARGUMENT]...
       supermachine run --detach [OPTIONS] <NAME|IMAGE>")]
pub(crate) struct Args {
    /// A snapshot's name, or an image, which is pulled if there is no snapshot of it
    #[arg(value_name = "NAME|IMAGE")]
    target: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// Make a port of the machine reachable at one of the host; host port 0 picks one, which is told
    /// [default address: 127.0.0.1]
    #[arg(short, long, value_name = "[ADDRESS:]HOST:GUEST")]
    publish: Vec<Publish>,
    /// Leave the machine running in the background
    #[arg(short, long)]
    #[arg(conflicts_with_all = ["interactive", "tty", "env", "workdir", "user", "timeout", "timings"])]
    detach: bool,
    /// What a machine in the background is called [default: the snapshot's name]
    #[arg(long, value_name = "NAME", requires = "detach")]
    name: Option<String>,
    /// Tell how long each step took, on standard error
    #[arg(long)]
    timings: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    argv: Vec<OsString>,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// Runs a command and returns its exit status, or leaves a machine in the background.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    match (args.argv.is_empty(), args.detach) {
        (true, false) => return Err(Error::NoCommand { name: args.target.clone() }),
        (false, true) => return Err(Error::DetachedCommand { name: args.target.clone() }),
        _ => {}
    }
    let mut timings = Timings::start();
    let (dir, name) = find(args, globals)?;
    if args.detach {
        return detach(args, globals, &dir, &name);
    }
    timings.step("find");
    let image = Image::from_store(dir, &name)?;
    timings.step("open");
    let vm = image.start(&VmConfig::new())?;
    timings.step("start");
    let (forwards, ports): (Vec<_>, Vec<_>) = ports::open(&vm, &args.publish)?.into_iter().unzip();
    tell_ports(&ports, globals);
    let status = process::run(&vm, &args.argv, &args.process);
    timings.step("command");
    if args.timings {
        tell(&timings, vm.timings());
    }
    // The process ends now, and the machine with it: an orderly end would only take longer.
    mem::forget((vm, forwards));
    status
}

/// Leaves a machine in the background, and prints its name.
fn detach(args: &Args, globals: &Globals, store: &Path, snapshot: &str) -> Result<u8, Error> {
    let label = detach::start(store, snapshot, args.name.as_deref(), &args.publish)?;
    tell_ports(&label.ports, globals);
    let line = format!("{}\n", label.name);
    io::stdout().write_all(line.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn tell_ports(ports: &[Port], globals: &Globals) {
    if !globals.quiet {
        ports
            .iter()
            .for_each(|port| report::note(&format!("{} leads to port {}", port.host, port.guest)));
    }
}

/// The store and the name of the snapshot that is meant; an image that has none is pulled.
fn find(args: &Args, globals: &Globals) -> Result<(PathBuf, String), Error> {
    let dir = store::dir(globals.store.as_deref())?;
    if store::has(&dir, &args.target)? {
        return Ok((dir, args.target.clone()));
    }
    let source: ImageSource = args.target.parse().map_err(BakeError::from)?;
    let reference = source.to_string();
    if let Some(store) = store::open_existing(Some(&dir))?
        && let Some(name) = named(&store, &reference)?
    {
        return Ok((dir, name));
    }
    if !globals.quiet {
        report::note(&format!("no snapshot of {reference} yet, pulling it"));
    }
    match pull(args, &dir, &reference, globals.quiet) {
        Ok(name) => Ok((dir, name)),
        Err(error @ Error::NameTaken { .. }) => Err(error),
        Err(source) => {
            Err(Error::NotPulled { wanted: reference, store: dir, source: Box::new(source) })
        }
    }
}

fn pull(args: &Args, dir: &Path, reference: &str, quiet: bool) -> Result<String, Error> {
    pull::check_host()?;
    let store = store::open(Some(dir))?;
    let name = free_name(&store, &args.target, reference)?;
    Ok(pull::bake_default(&args.target, &name, &args.fetch, &store, quiet)?.name)
}

/// The name of a snapshot of this image.
fn named(store: &Store, reference: &str) -> Result<Option<String>, Error> {
    for name in store.names()? {
        // What cannot be read is not what is looked for; `ls` tells of it.
        if image_of(store, &name).is_some_and(|image| image == reference) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn image_of(store: &Store, name: &str) -> Option<String> {
    let summary = store.summary(store.digest(name).ok()?).ok()?;
    Some(summary.snapshot.workload?.reference)
}

/// A name for an image's snapshot that no other image has: `redis`, else `redis-7.2`.
fn free_name(store: &Store, target: &str, reference: &str) -> Result<String, Error> {
    let last = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let short = last.split(['@', ':']).next().unwrap_or_default();
    let long = last.replace(['@', ':'], "-");
    for name in [short, &long] {
        if matches!(store.digest(name), Err(BakeError::NoSuchName { .. })) {
            return Ok(name.to_owned());
        }
    }
    let image = image_of(store, short).unwrap_or_else(|| "unknown".to_owned());
    let (name, wanted) = (short.to_owned(), reference.to_owned());
    Err(Error::NameTaken { name, image, wanted })
}

fn tell(ours: &Timings, machine: &Timings) {
    let row = |name: &str, time: Duration| {
        report::note(&format!("{name:24} {:>10}", format!("{:.3} ms", time.as_secs_f64() * 1e3)));
    };
    for (name, time) in ours.steps() {
        row(name, *time);
        if *name == "start" {
            machine.steps().iter().for_each(|(step, time)| row(&format!("  {step}"), *time));
        }
    }
    row("all", ours.total());
}
