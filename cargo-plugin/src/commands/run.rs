//! `supermachine run`: restores a snapshot, runs a command in it, and discards the machine, or leaves
//! the machine in the background.

mod attach;
mod find;
mod request;

use std::ffi::OsString;
use std::io::{self, Write};
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use supermachine::{Image, Timings, VmConfig};
use supermachine_snapshots::pack::is_name;

use self::find::Search;
use self::request::{Background, MachineArgs};
use super::pull::FetchArgs;
use crate::detach::{self, Start};
use crate::error::{Error, UsageError};
use crate::folders::FolderArg;
use crate::globals::Globals;
use crate::label::MachineOptions;
use crate::ports::{self, Port, Protocol, PublishSpec};
use crate::process::{self, ProcessArgs, STATUSES};
use crate::{report, store};

const EXAMPLES: &str = "\
Examples:
  supermachine run redis redis-cli ping
  supermachine run -it busybox sh
  supermachine run -e LANG=C -w /tmp -u nobody busybox -- sh -c 'id; pwd'
  supermachine run --timeout 5 --timings python -- python3 -c 'print(6 * 7)'
  supermachine run -d --name web -p 8080:80 -m 512m nginx
  supermachine run -v .:/project -w /project python python3 main.py

As in Docker, COMMAND replaces the image's CMD and becomes the arguments of its ENTRYPOINT, which \
--entrypoint replaces. Without COMMAND, `run` attaches to the entrypoint that the snapshot has \
already started, or starts it again if it has exited. What stands behind the image belongs to \
COMMAND, options too. If `--` follows them, options of `run` may stand there as well.

Each run starts a fresh machine and discards it afterwards. The command's standard input is empty \
without -i.

With -d, the machine continues its image's entrypoint in the background, and its name is printed. \
`supermachine exec` runs commands in it, `ps` lists such machines, `stop` stops them.

A snapshot fixes the memory, the processors and the running entrypoint with its environment. Other \
values bake another snapshot of the image, which later runs with the same options reuse.

A machine reaches the public internet, and no private address, unless --net says otherwise.

";

/// Run a command in a machine restored from a snapshot
///
/// The machine continues from the moment when its image was ready. Prints output as the command writes
/// it, and exits with the command's status.
#[derive(Debug, clap::Args)]
#[command(after_help = [EXAMPLES, STATUSES].concat())]
#[command(override_usage = "supermachine run [OPTIONS] <NAME|IMAGE> [COMMAND] [ARGUMENT]...
       supermachine run --detach [OPTIONS] <NAME|IMAGE> [COMMAND] [ARGUMENT]...")]
pub(crate) struct Args {
    /// Start this snapshot, or a snapshot of this image, which is pulled if there is none
    #[arg(value_name = "NAME|IMAGE")]
    target: String,
    #[command(flatten)]
    process: ProcessArgs,
    /// Publish a port of the machine on the host, at 127.0.0.1 if there is no ADDRESS; HOST may be left
    /// out, or 0, for a free port, which is printed; both ports may be ranges
    #[arg(short, long, value_name = "[[ADDRESS:]HOST:]GUEST[/udp]")]
    publish: Vec<PublishSpec>,
    /// Leave the machine running in the background
    #[arg(short, long)]
    #[arg(conflicts_with_all = ["interactive", "tty", "timeout", "timings"])]
    detach: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    background: Background,
    /// Print how long each step took on standard error
    #[arg(long)]
    timings: bool,
    /// Run this command with its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    argv: Vec<OsString>,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// Runs a command and returns its exit status, or starts a machine in the background.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let mut timings = Timings::start();
    // Before a pull, which takes long.
    if let Some(name) = args.background.name.as_deref().filter(|name| !is_name(name)) {
        return Err(UsageError::MachineName { name: name.to_owned() }.into());
    }
    let attaches = args.argv.is_empty()
        && args.machine.entrypoint.is_none()
        && !args.process.interactive
        && !args.process.tty;
    // The entrypoint with its environment is part of the snapshot, if it is what runs.
    let entrypoint = if args.detach || attaches {
        request::entrypoint(&args.machine, &args.process, &args.argv)?
    } else {
        Default::default()
    };
    // Before a pull.
    args.background.check(args.detach)?;
    let options = args.background.options(&args.machine)?;
    options.folders.iter().try_for_each(FolderArg::check)?;
    let variant = request::variant(&args.machine, &args.fetch, entrypoint);
    let dir = store::dir(globals.store.as_deref())?;
    let search = Search {
        target: &args.target,
        variant: &variant,
        policy: args.machine.pull,
        for_commands: !args.detach,
        fetch: &args.fetch,
        dir: &dir,
        quiet: globals.quiet,
    };
    let name = search.find()?;
    if args.detach {
        return detach(args, globals, (&dir, &name), &options);
    }
    timings.step("find");
    let image = Image::from_store(&dir, &name)?;
    timings.step("open");
    let again = request::argv(&args.machine, &args.argv, image.snapshot(), &args.target);
    let argv = if attaches { again.unwrap_or_default() } else { again? };
    let mut config = VmConfig::new();
    if let Some(hostname) = &args.machine.hostname {
        config = config.with_hostname(hostname);
    }
    let config = args.machine.network.apply(config, args.machine.net_log);
    let config = FolderArg::apply_all(&options.folders, config);
    let vm = Arc::new(image.start(&config)?);
    timings.step("start");
    let opened = ports::open(&vm, &ports::all(&args.publish))?;
    let (forwards, ports): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    print_ports(&ports, globals);
    let attached = if attaches { attach::attach(&vm, args.process.timeout)? } else { None };
    let status = match attached {
        Some(status) => Ok(status),
        None if argv.is_empty() => Err(request::no_command(&args.target)),
        None => process::run(&vm, &argv, &args.process),
    };
    timings.step("command");
    if args.timings {
        print_timings(&timings, vm.timings());
    }
    // The process exits now and takes the machine with it. An orderly shutdown would take longer, and only
    // volumes outlive it.
    let written = vm.write_back();
    mem::forget((vm, forwards));
    let status = status?;
    written?;
    Ok(status)
}

/// Starts a machine in the background, and prints its name.
fn detach(
    args: &Args,
    globals: &Globals,
    (store, snapshot): (&Path, &str),
    options: &MachineOptions,
) -> Result<u8, Error> {
    let label = detach::start(&Start {
        store,
        snapshot,
        name: args.background.name.as_deref(),
        publish: &ports::all(&args.publish),
        options,
    })?;
    print_ports(&label.ports, globals);
    let line = format!("{}\n", label.name);
    io::stdout().write_all(line.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn print_ports(ports: &[Port], globals: &Globals) {
    if !globals.quiet {
        for Port { host, guest, protocol } in ports {
            let port = match protocol {
                Protocol::Tcp => "port",
                Protocol::Udp => "UDP port",
            };
            report::note(&format!("{host} leads to {port} {guest}"));
        }
    }
}

fn print_timings(ours: &Timings, machine: &Timings) {
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
