//! `supermachine pull`: an image becomes a snapshot in the store; a snapshot comes as it is.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use supermachine_baker::oci::{self, Credentials, FetchOptions, ImageSource, Platform, Reference};
use supermachine_baker::{BakeError, Baked, OciImageBuilder, Ready, Store};
use supermachine_formats::pack::ARTIFACT_TYPE;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_kernel::Assets;
use supermachine_snapshots::pack::{Manifest, Named, Source, is_name};

use super::import;
use crate::error::Error;
use crate::progress::Progress;
use crate::{Globals, format, report, store};

/// What hardware needs for an iteration of the speed probe, in picoseconds.
const HARDWARE_ITERATION: u64 = 2_000;
/// A password is not longer than this.
const MAX_PASSWORD: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  supermachine pull redis
  supermachine pull --name web --ready tcp:80 --memory 512 nginx:1.27
  supermachine pull --entrypoint /bin/sh --name shell busybox -- -c 'exec sleep 1000000'
  supermachine pull oci:./layout --name mine

An image is one of
  NAME[:TAG][@DIGEST]            on Docker Hub, as in `redis`, `grafana/loki:3`
  HOST[:PORT]/NAME[:TAG]         on another registry
  oci:FOLDER[:TAG]               an OCI layout
  oci-archive:FILE[:TAG]         a tar of one
  docker-archive:FILE[:TAG]      what `docker save` writes
  a path with a slash in it      any of these

Readiness is one of
  auto           the first of: a port that the image exposes listens, the entrypoint ends with
                 success, or it writes nothing for two seconds
  tcp:PORT       something in the machine listens on the port
  log:REGEX      the entrypoint writes something that matches
  exec:COMMAND   the command, run in the machine again and again, ends with success
  exit           the entrypoint ends with success

Where there is a snapshot instead of an image, as after `supermachine push`, it is taken as it is:
nothing is started, and what is said about a bake does not count.

The name of the snapshot is printed. A snapshot that has the name already is replaced.
Credentials come from Docker's configuration unless they are given.";

/// Fetch an image and bake it into a snapshot
///
/// The image is fetched and checked, laid out as a disk, and started once in a machine. When it is
/// ready, the machine's state is kept. What was done before is not done again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The snapshot's name [default: the last part of the image's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Memory of the machine, in MiB
    #[arg(short, long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    memory: u64,
    /// Virtual processors of the machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16))]
    vcpus: u16,
    /// The processor features that the machine may use: x86-64-v2, x86-64-v3 or host. The snapshot
    /// goes on only where they are
    #[arg(long, value_name = "BASELINE", default_value = "x86-64-v3")]
    cpu: Baseline,
    /// When the machine is ready: auto, tcp:PORT, log:REGEX, exec:COMMAND or exit
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ready)]
    ready: Ready,
    /// How long to wait until it is ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = crate::process::seconds)]
    ready_timeout: Duration,
    /// Fetch the image and lay it out, and leave it at that: needs no hypervisor
    #[arg(long)]
    fetch_only: bool,
    /// The program to start instead of the image's entrypoint; the image's command is dropped
    #[arg(long, value_name = "PROGRAM", help_heading = "What the image runs")]
    entrypoint: Option<String>,
    /// Set a variable for the entrypoint and every command; without =VALUE, as it is here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = crate::process::variable)]
    #[arg(help_heading = "What the image runs")]
    env: Vec<(String, String)>,
    /// The user, by name or number, instead of the image's
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "What the image runs")]
    user: Option<String>,
    /// The working directory instead of the image's
    #[arg(short, long, value_name = "DIR", help_heading = "What the image runs")]
    workdir: Option<String>,
    /// The arguments of the entrypoint instead of the image's command
    #[arg(last = true, value_name = "ARGUMENT", help_heading = "What the image runs")]
    command: Vec<String>,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// How an image is fetched.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How the image is fetched")]
pub(crate) struct FetchArgs {
    /// Which of an image's platforms, as in linux/amd64 [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,
    /// Use no network: only what was fetched before
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// How a registry is spoken to.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Speak to a registry on another machine without TLS
    #[arg(long)]
    insecure: bool,
    /// The user to log in to the registry as
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

/// Bakes an image, or takes a snapshot as it is, and prints the snapshot's name.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    // The password can be read once.
    let options = args.fetch.options()?;
    let builder = args.builder(&options)?;
    if let Some(name) = &args.name {
        check_name(name)?;
    }
    let source: ImageSource = args.image.parse().map_err(BakeError::from)?;
    if let Some(path) = snapshots_at(&source) {
        let store = store::open(globals.store.as_deref())?;
        return import::tell(&store.import(path, args.name.as_deref())?, globals.quiet);
    }
    if !args.fetch_only
        && let Err(error) = check_host()
    {
        // A snapshot can be had without ever starting a machine.
        return match &source {
            ImageSource::Registry(reference) if is_snapshot(reference, &options) => {
                pull_snapshot(args, reference, options, globals)
            }
            _ => Err(error),
        };
    }
    let store = store::open(globals.store.as_deref())?;
    let progress = Arc::new(Progress::new(globals.quiet));
    let builder = builder.observer(Arc::clone(&progress) as _);
    let done = if args.fetch_only {
        let done = builder.fetch(&store);
        progress.finish(done.is_ok());
        done.map(|()| None).map_err(Error::from)
    } else {
        bake(&builder, &store, &progress, globals.quiet).map(Some)
    };
    match (done, &source) {
        (Ok(None), _) => Ok(0),
        (Ok(Some(baked)), _) => print_name(&baked.name),
        (Err(error), ImageSource::Registry(reference)) if tells_of_snapshot(&error) => {
            pull_snapshot(args, reference, options, globals)
        }
        (Err(error), _) => Err(error),
    }
}

fn print_name(name: &str) -> Result<u8, Error> {
    writeln!(io::stdout(), "{name}").map_err(|source| Error::Output { source })?;
    Ok(0)
}

/// The path of an archive or layout, if what it holds are snapshots.
fn snapshots_at(source: &ImageSource) -> Option<&Path> {
    let (ImageSource::Layout { path, .. }
    | ImageSource::OciArchive { path, .. }
    | ImageSource::Archive { path }) = source
    else {
        return None;
    };
    let found = Source::open(path).ok()?;
    let all = found.snapshots().ok()?;
    let is_snapshot = |named: &Named| Manifest::read(&found, named.descriptor.digest).is_ok();
    (!all.is_empty() && all.iter().all(is_snapshot)).then_some(path)
}

/// Whether a registry has a snapshot there. Failing to find out is no answer.
fn is_snapshot(reference: &Reference, options: &FetchOptions) -> bool {
    let kind = oci::artifact_type(reference, options);
    kind.is_ok_and(|kind| kind.as_deref() == Some(ARTIFACT_TYPE))
}

fn tells_of_snapshot(error: &Error) -> bool {
    let Error::Bake(BakeError::Fetch { source: oci::Error::Artifact { artifact_type, .. } }) =
        error
    else {
        return false;
    };
    artifact_type == ARTIFACT_TYPE
}

/// Stores a snapshot as the registry has it.
fn pull_snapshot(
    args: &Args,
    reference: &Reference,
    mut options: FetchOptions,
    globals: &Globals,
) -> Result<u8, Error> {
    let store = store::open(globals.store.as_deref())?;
    let progress = Arc::new(Progress::new(globals.quiet));
    options.progress = Some(Arc::clone(&progress) as _);
    let pulled = store.pull(reference, args.name.as_deref(), &options);
    progress.finish(pulled.is_ok());
    let pulled = pulled?;
    if !globals.quiet {
        let (name, digest) = (&pulled.name, format::short(pulled.digest));
        let (moved, present) = (format::bytes(pulled.moved), format::bytes(pulled.present));
        report::note(&format!("{name} is {digest}, {moved} fetched, {present} were here"));
    }
    print_name(&pulled.name)
}

/// Bakes what an image says, as `run` does for one that is not in the store. The host must have
/// been checked.
pub(crate) fn bake_default(
    image: &str,
    name: &str,
    fetch: &FetchArgs,
    store: &Store,
    quiet: bool,
) -> Result<Baked, Error> {
    let progress = Arc::new(Progress::new(quiet));
    let builder = OciImageBuilder::new(image)?
        .name(name)
        .fetch_options(fetch.options()?)
        .observer(Arc::clone(&progress) as _);
    bake(&builder, store, &progress, quiet)
}

fn bake(
    builder: &OciImageBuilder,
    store: &Store,
    progress: &Progress,
    quiet: bool,
) -> Result<Baked, Error> {
    let began = Instant::now();
    let baked = builder.bake(store);
    progress.finish(baked.is_ok());
    let baked = baked?;
    if !quiet {
        let (name, digest) = (&baked.name, format::short(baked.digest));
        let how = if baked.was_cached {
            "was baked before".to_owned()
        } else {
            format!("baked in {}", format::time(began.elapsed()))
        };
        report::note(&format!("{name} is {digest}, {how}"));
    }
    Ok(baked)
}

/// Fails early when no machine could be started after all the fetching.
pub(crate) fn check_host() -> Result<(), Error> {
    Assets::locate().map_err(|source| Error::Assets { source })?;
    let speed = supermachine::host::probe().map_err(|source| Error::Host { source })?;
    if speed.is_usable() {
        return Ok(());
    }
    Err(Error::Slow { factor: speed.picoseconds_per_iteration / HARDWARE_ITERATION })
}

/// Names are checked by the store; this asks it without one, before anything is made.
fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) {
        Ok(())
    } else {
        Err(BakeError::InvalidName { name: name.to_owned() }.into())
    }
}

impl Args {
    fn builder(&self, options: &FetchOptions) -> Result<OciImageBuilder, Error> {
        let mut builder = OciImageBuilder::new(&self.image)?
            .memory_mib(self.memory)
            .vcpus(self.vcpus)
            .cpu_baseline(self.cpu)
            .ready(self.ready.clone())
            .ready_timeout(self.ready_timeout)
            .fetch_options(options.clone());
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        if let Some(program) = &self.entrypoint {
            builder = builder.entrypoint([program]);
        }
        if !self.command.is_empty() {
            builder = builder.command(&self.command);
        }
        for (name, value) in &self.env {
            builder = builder.env(name, value);
        }
        if let Some(user) = &self.user {
            builder = builder.user(user);
        }
        if let Some(dir) = &self.workdir {
            builder = builder.working_dir(dir);
        }
        Ok(builder)
    }
}

impl FetchArgs {
    fn options(&self) -> Result<FetchOptions, Error> {
        let mut options = self.registry.options()?;
        if let Some(platform) = &self.platform {
            options.platform = platform.clone();
        }
        options.offline = self.offline;
        Ok(options)
    }
}

impl RegistryArgs {
    pub(crate) fn options(&self) -> Result<FetchOptions, Error> {
        let mut options = FetchOptions::default();
        options.insecure = self.insecure;
        if let Some(user) = &self.username {
            let password = read_password().map_err(|source| Error::Password { source })?;
            options.credentials = Some(Credentials::Password { user: user.clone(), password });
        }
        Ok(options)
    }
}

/// Reads a password and drops the line end behind it.
pub(crate) fn read_password() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().take(MAX_PASSWORD).read_to_string(&mut text)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(password.to_owned())
}

fn ready(text: &str) -> Result<Ready, String> {
    text.parse().map_err(|error| told(&error))
}

fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error| told(&error))
}

/// An error with its cause in one line, as clap shows what a value lacks.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
