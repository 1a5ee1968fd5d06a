//! `supermachine pull`: bakes an image into a snapshot in the store, or fetches a snapshot.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use supermachine::Ulimit;
use supermachine_baker::oci::{self, Credentials, FetchOptions, ImageSource, Platform, Reference};
use supermachine_baker::{
    AfterRestore, BakeError, Baked, InputError, OciImageBuilder, Ready, Store,
};
use supermachine_formats::pack::ARTIFACT_TYPE;
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_kernel::Assets;
use supermachine_snapshots::pack::{Manifest, Named, Source, is_name};

use super::import;
use crate::container::ContainerArgs;
use crate::error::{Error, HostError, UsageError};
use crate::globals::Globals;
use crate::init::InitArg;
use crate::progress::Progress;
use crate::variables::EnvArgs;
use crate::{format, image_name, machine_size, report, store};

/// How long hardware takes for an iteration of the speed probe, in picoseconds.
const HARDWARE_ITERATION: u64 = 2_000;
/// The longest password.
const MAX_PASSWORD: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  supermachine pull redis
  supermachine pull --name web --ready tcp:80 --memory 512 nginx:1.27
  supermachine pull --entrypoint /bin/sh --name shell busybox -- -c 'exec sleep 1000000'
  supermachine pull oci:./layout --name mine

An image is one of
  NAME[:TAG][@DIGEST]            on Docker Hub, as in `redis`, `grafana/loki:3`, unless
                                 registries.conf says otherwise
  HOST[:PORT]/NAME[:TAG]         on another registry
  oci:FOLDER[:TAG]               an OCI layout
  oci-archive:FILE[:TAG]         a tar archive of an OCI layout
  docker-archive:FILE[:TAG]      an archive of `docker save`
  a path that contains a slash   any of these

Readiness is one of
  auto           the first of: an exposed port listens, the entrypoint exits with status 0, or it
                 writes nothing for two seconds
  tcp:PORT       a process in the machine listens on the port
  log:REGEX      the entrypoint's output matches
  exec:COMMAND   the command, run repeatedly in the machine, exits with status 0
  exit           the entrypoint exits with status 0

An action after a restore is one of
  restart          stop the entrypoint, start it again, and wait until its ports listen
  signal:SIGNAL    send the entrypoint a signal, as HUP
  exec:COMMAND     run the command, which must exit with status 0
  none             do nothing, and do not warn
Machines of a snapshot share the random values that its programs drew before it; the action lets \
them draw new ones.

A snapshot, as after `supermachine push`, is fetched unchanged: nothing starts, and the options for
a bake have no effect.

Prints the name of the snapshot, and replaces an older snapshot of that name. Credentials come from
Docker's configuration unless --username is given.";

/// Fetch an image and bake it into a snapshot
///
/// Fetches and verifies the image, writes its root file system, and starts it once in a machine. When it
/// is ready, the machine's state becomes the snapshot. Reuses the results of earlier pulls.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Pull this image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name the snapshot [default: the last part of the image's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[arg(short, long, value_name = "SIZE", default_value = "256")]
    #[arg(value_parser = machine_size::memory_mib, help = machine_size::memory_help())]
    memory: u64,
    #[arg(long, alias = "cpus", value_name = "N", default_value = "1")]
    #[arg(value_parser = machine_size::vcpus(), help = machine_size::vcpus_help())]
    vcpus: u16,
    /// Let the machine use these processor features: x86-64-v2, x86-64-v3 or host, on arm64 armv8.2-a,
    /// apple-m1 or host. The snapshot starts only on hosts that have them
    #[arg(long, value_name = "BASELINE", default_value_t = default_baseline())]
    cpu: Baseline,
    /// Let this process be PID 1 to the image's programs
    #[arg(long, value_name = "WHO", value_enum, default_value_t)]
    init: InitArg,
    /// Take the snapshot at this moment: auto, tcp:PORT, log:REGEX, exec:COMMAND or exit
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ready)]
    ready: Ready,
    /// Fail if the machine is not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = crate::process::seconds)]
    ready_timeout: Duration,
    /// Do this in each machine after its restore, before it answers the first request: restart,
    /// signal:SIGNAL, exec:COMMAND or none
    #[arg(long, value_name = "ACTION", value_parser = after_restore)]
    after_restore: Option<AfterRestore>,
    /// Let that, and each program in /etc/supermachine/after-restore.d, take this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = crate::process::seconds)]
    after_restore_timeout: Duration,
    /// Fetch the image and write its root file system only; needs no hypervisor
    #[arg(long)]
    fetch_only: bool,
    /// Start this program instead of the image's entrypoint, without the image's command
    #[arg(long, value_name = "PROGRAM", help_heading = "Entrypoint options")]
    entrypoint: Option<String>,
    #[command(flatten)]
    env: EnvArgs,
    /// Run as this user, by name or number, instead of the image's
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Entrypoint options")]
    user: Option<String>,
    /// Run in this folder instead of the image's
    #[arg(short, long, value_name = "DIR", help_heading = "Entrypoint options")]
    workdir: Option<String>,
    /// Pass these arguments to the entrypoint instead of the image's command
    #[arg(last = true, value_name = "ARGUMENT", help_heading = "Entrypoint options")]
    command: Vec<String>,
    /// Limit a resource of processes, as nofile=1024:4096; -1 is no limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Container options")]
    ulimit: Vec<Ulimit>,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// How to fetch an image.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Fetch options")]
pub(crate) struct FetchArgs {
    /// Fetch the image for this platform, as in linux/amd64 [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    pub(crate) platform: Option<Platform>,
    /// Use only what is cached, without a network
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// How to talk to a registry.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Talk to a registry on another machine without TLS
    #[arg(long)]
    insecure: bool,
    /// Trust the certificate authorities in this PEM file, besides those of the system
    #[arg(long, value_name = "FILE")]
    tls_ca: Vec<PathBuf>,
    /// Log in to the registry as this user
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

/// Bakes an image, or fetches a snapshot, and prints the snapshot's name.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    // The password can be read once.
    let options = args.fetch.options()?;
    if let Some(name) = &args.name {
        check_name(name)?;
    }
    let mut searching = options.clone();
    searching.progress = Some(Arc::new(Progress::new(globals.quiet)) as _);
    let source = image_name::locate(&args.image, &searching, globals.store.as_deref())?;
    let builder = args.builder(&source, &options)?;
    if let Some(path) = snapshots_at(&source) {
        let store = store::open(globals.store.as_deref())?;
        return import::print(&store.import(path, args.name.as_deref())?, globals.quiet);
    }
    if !args.fetch_only
        && let Err(error) = check_host()
    {
        // Fetching a snapshot starts no machine.
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
        (Err(error), ImageSource::Registry(reference)) if is_snapshot_error(&error) => {
            pull_snapshot(args, reference, options, globals)
        }
        (Err(error), _) => Err(error),
    }
}

fn default_baseline() -> Baseline {
    Baseline::default_of(supermachine::host::architecture())
}

fn print_name(name: &str) -> Result<u8, Error> {
    writeln!(io::stdout(), "{name}").map_err(|source| Error::Output { source })?;
    Ok(0)
}

/// The path of an archive or layout that contains only snapshots.
fn snapshots_at(source: &ImageSource) -> Option<&Path> {
    let (ImageSource::Layout { path, .. }
    | ImageSource::OciArchive { path, .. }
    | ImageSource::Archive { path }) = source
    else {
        return None;
    };
    // What can be read only once is left to the bake.
    std::fs::metadata(path).ok().filter(|found| found.is_file() || found.is_dir())?;
    let found = Source::open(path).ok()?;
    let all = found.snapshots().ok()?;
    let is_snapshot = |named: &Named| Manifest::read(&found, named.descriptor.digest).is_ok();
    (!all.is_empty() && all.iter().all(is_snapshot)).then_some(path)
}

/// Whether the registry has a snapshot under this reference. An error counts as no.
fn is_snapshot(reference: &Reference, options: &FetchOptions) -> bool {
    let kind = oci::artifact_type(reference, options);
    kind.is_ok_and(|kind| kind.as_deref() == Some(ARTIFACT_TYPE))
}

fn is_snapshot_error(error: &Error) -> bool {
    let Error::Bake(BakeError::Fetch { source: oci::Error::Artifact { artifact_type, .. } }) =
        error
    else {
        return false;
    };
    artifact_type == ARTIFACT_TYPE
}

/// Fetches a snapshot unchanged.
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
        report::note(&format!("{name} is {digest}, {moved} fetched, {present} already here"));
    }
    print_name(&pulled.name)
}

/// Bakes an image for `run`. The caller has checked the host.
pub(crate) fn bake_with(
    builder: OciImageBuilder,
    options: FetchOptions,
    store: &Store,
    quiet: bool,
) -> Result<Baked, Error> {
    let progress = Arc::new(Progress::new(quiet));
    let builder = builder.fetch_options(options).observer(Arc::clone(&progress) as _);
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

/// Fails early, before any download, if this host cannot start a machine.
pub(crate) fn check_host() -> Result<(), Error> {
    Assets::locate().map_err(|source| HostError::Assets { source })?;
    let speed = supermachine::host::probe().map_err(|source| HostError::Hypervisor { source })?;
    if speed.is_usable() {
        return Ok(());
    }
    Err(HostError::Slow { factor: speed.picoseconds_per_iteration / HARDWARE_ITERATION }.into())
}

/// Checks a name before anything is created. The store checks it again.
fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) {
        Ok(())
    } else {
        Err(BakeError::Input(InputError::InvalidName { name: name.to_owned() }).into())
    }
}

impl Args {
    fn builder(
        &self,
        source: &ImageSource,
        options: &FetchOptions,
    ) -> Result<OciImageBuilder, Error> {
        let mut builder = OciImageBuilder::from_source(source.clone())
            .memory_mib(self.memory)
            .vcpus(self.vcpus)
            .cpu_baseline(self.cpu)
            .init(self.init.into())
            .ready(self.ready.clone())
            .ready_timeout(self.ready_timeout)
            .after_restore_timeout(self.after_restore_timeout)
            .fetch_options(options.clone());
        if let Some(action) = &self.after_restore {
            builder = builder.after_restore(action.clone());
        }
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        if let Some(program) = &self.entrypoint {
            builder = builder.entrypoint([program]);
        }
        if !self.command.is_empty() {
            builder = builder.command(&self.command);
        }
        for (name, value) in self.env.read()? {
            let utf8 = |text: OsString| {
                text.into_string().map_err(|text| UsageError::NotUtf8 { what: "variable", text })
            };
            builder = builder.env(&utf8(name)?, &utf8(value)?);
        }
        if let Some(user) = &self.user {
            builder = builder.user(user);
        }
        if let Some(dir) = &self.workdir {
            builder = builder.working_dir(dir);
        }
        builder = self.ulimit.iter().fold(builder, |builder, limit| builder.ulimit(*limit));
        Ok(self.container.apply(builder))
    }
}

impl FetchArgs {
    pub(crate) fn options(&self) -> Result<FetchOptions, Error> {
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
        options.authorities.clone_from(&self.tls_ca);
        if let Some(user) = &self.username {
            let password = read_password().map_err(|source| UsageError::Password { source })?;
            options.credentials = Some(Credentials::Password { user: user.clone(), password });
        }
        Ok(options)
    }
}

/// Reads a password, without the line ending.
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
    text.parse().map_err(|error| one_line(&error))
}

/// Parses an action after restores, for an option.
pub(crate) fn after_restore(text: &str) -> Result<AfterRestore, String> {
    text.parse().map_err(|error| one_line(&error))
}

fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error| one_line(&error))
}

/// An error with its cause in one line, for clap's message about a value.
fn one_line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
