//! What `run` asks of a machine, by Docker's rules.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use supermachine_baker::AfterRestore;
use supermachine_baker::oci::Platform;
use supermachine_formats::snapshot::Snapshot;
use supermachine_snapshots::pack::is_name;

use super::super::pull::{FetchArgs, after_restore};
use crate::container::ContainerArgs;
use crate::error::{Error, UsageError};
use crate::folders::{FolderArg, MountArg, VolumeArg};
use crate::init::InitArg;
use crate::label::MachineOptions;
use crate::network::NetworkArg;
use crate::process::ProcessArgs;
use crate::restart_policy::RestartPolicy;
use crate::variant::{Entrypoint, Variant};
use crate::{machine_size, signal_names};

/// Options of the machine.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct MachineArgs {
    #[arg(short, long, value_name = "SIZE", value_parser = machine_size::memory_mib)]
    #[arg(help = format!("{} [default: the snapshot's]", machine_size::memory_help()))]
    pub(super) memory: Option<u64>,
    #[arg(long, alias = "cpus", value_name = "N", value_parser = machine_size::vcpus())]
    #[arg(help = format!("{} [default: the snapshot's]", machine_size::vcpus_help()))]
    pub(super) vcpus: Option<u16>,
    /// Set the host name of the machine
    #[arg(long, value_name = "NAME")]
    pub(super) hostname: Option<String>,
    /// What the machine reaches: `public` for the internet without private addresses, `all`, `none`, or a
    /// list such as *.debian.org:80,10.0.0.0/8,host:5432, where `host` is this machine's loopback address
    #[arg(long = "net", alias = "network", value_name = "NETWORK", default_value = "public")]
    pub(super) network: NetworkArg,
    /// Print what the machine reaches, and what it is refused, on standard error
    #[arg(long, conflicts_with = "detach")]
    pub(super) net_log: bool,
    /// Give the machine a folder of this host, a path that starts with / or ./, or a volume by its name,
    /// which is made if it is missing; `ro`: read-only
    #[arg(short, long, value_name = "HOST|NAME:GUEST[:ro]")]
    volume: Vec<VolumeArg>,
    /// The same as type=bind,source=HOST,target=GUEST[,readonly], or with type=volume,source=NAME
    #[arg(long, value_name = "FIELDS")]
    mount: Vec<MountArg>,
    /// Put what the machine writes on a disk of this size, as 8g, rather than into its memory; it is gone with the
    /// machine. `-v NAME:/` keeps it in a volume. An entrypoint starts anew
    #[arg(long, value_name = "SIZE", value_parser = machine_size::bytes)]
    disk: Option<u64>,
    /// Run this program instead of the image's ENTRYPOINT and CMD; '' for none
    #[arg(long, value_name = "PROGRAM")]
    pub(super) entrypoint: Option<String>,
    /// Let this process be PID 1 to the image's programs
    #[arg(long, value_name = "WHO", value_enum, default_value_t)]
    init: InitArg,
    /// Do this after each restore: restart, signal:SIGNAL, exec:COMMAND or none [default: the snapshot's]
    #[arg(long, value_name = "ACTION", value_parser = after_restore)]
    pub(super) after_restore: Option<AfterRestore>,
    /// When to ask the registry for the image
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub(super) pull: PullPolicy,
    #[command(flatten)]
    container: ContainerArgs,
}

impl MachineArgs {
    /// The folders of the host, the volumes and the disks that the machine gets.
    pub(super) fn folders(&self) -> Vec<FolderArg> {
        let volumes = self.volume.iter().map(|volume| &volume.0);
        let given = volumes.chain(self.mount.iter().map(|mount| &mount.0)).cloned();
        given.chain(self.disk.map(FolderArg::layer)).collect()
    }
}

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum PullPolicy {
    /// Always, so that a tag that has moved is noticed
    Always,
    /// If there is no snapshot of the image
    #[default]
    Missing,
    /// Never
    Never,
}

/// Options of a machine in the background.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Background options")]
pub(crate) struct Background {
    /// Name the machine in the background [default: the snapshot's name]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Add a label to the machine, which `ps --json` prints
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Send this signal on `stop` [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal_names::parse)]
    stop_signal: Option<u8>,
    /// Wait this many seconds on `stop` [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    /// Discard the machine after it stops, which is the default; with -d, also discard its logs
    #[arg(long)]
    rm: bool,
    /// Start the machine again from its snapshot when its entrypoint exits: no, on-failure[:N], always or
    /// unless-stopped [default: no]
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
}

impl Background {
    /// Refuses options that have no meaning for a machine that goes with its command, and a name that no
    /// machine can have.
    pub(super) fn check(&self, is_detached: bool) -> Result<(), Error> {
        let needs = [
            ("--name", self.name.is_some()),
            ("--label", !self.label.is_empty()),
            ("--stop-signal", self.stop_signal.is_some()),
            ("--stop-timeout", self.stop_timeout.is_some()),
            ("--restart", self.restart.is_some_and(|policy| policy != RestartPolicy::No)),
        ];
        if let Some((option, _)) = needs.into_iter().find(|(_, is_given)| *is_given && !is_detached)
        {
            return Err(UsageError::NeedsDetach { option }.into());
        }
        match &self.name {
            Some(name) if !is_name(name) => {
                Err(UsageError::MachineName { name: name.clone() }.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn options(&self, machine: &MachineArgs) -> Result<MachineOptions, Error> {
        let restart = self.restart.unwrap_or_default();
        if self.rm && restart != RestartPolicy::No {
            return Err(UsageError::RestartAndRemove { policy: restart.to_string() }.into());
        }
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        Ok(MachineOptions {
            hostname: machine.hostname.clone(),
            network: Some(machine.network.text().to_owned()),
            folders: machine.folders(),
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            labels: self.label.iter().map(pair).collect::<BTreeMap<_, _>>(),
            remove: self.rm,
            restart,
        })
    }
}

/// The entrypoint that a snapshot must run.
pub(super) fn entrypoint(
    machine: &MachineArgs,
    process: &ProcessArgs,
    argv: &[OsString],
) -> Result<Entrypoint, Error> {
    let text = |what, text: &OsStr| match text.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(UsageError::NotUtf8 { what, text: text.to_owned() }),
    };
    let mut env = Vec::new();
    for (name, value) in process.env.read()? {
        env.push((text("variable", &name)?, text("variable", &value)?));
    }
    let command: Result<_, _> = argv.iter().map(|word| text("argument", word)).collect();
    let workdir = process.workdir.as_deref().map(|dir| text("folder", dir)).transpose()?;
    Ok(Entrypoint {
        program: machine.entrypoint.clone(),
        command: command?,
        env,
        user: process.user.clone(),
        workdir,
        ulimits: process.ulimit.clone(),
    })
}

/// The variant of the image's snapshot that is wanted.
pub(super) fn variant(machine: &MachineArgs, fetch: &FetchArgs, entrypoint: Entrypoint) -> Variant {
    let platform = fetch.platform.clone().filter(|platform| *platform != Platform::host());
    Variant {
        memory_mib: machine.memory,
        vcpus: machine.vcpus,
        platform,
        init: machine.init.into(),
        after_restore: machine.after_restore.clone(),
        container: machine.container.clone(),
        entrypoint,
    }
}

/// The words to run: the image's `ENTRYPOINT`, or `--entrypoint`, with the given command or the image's
/// `CMD`.
pub(super) fn argv(
    machine: &MachineArgs,
    given: &[OsString],
    snapshot: &Snapshot,
    target: &str,
) -> Result<Vec<OsString>, Error> {
    let own = snapshot.image_command.as_ref();
    let mut words: Vec<OsString> = match &machine.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.into()],
        // The bake may have replaced the image's entrypoint and command.
        None if given.is_empty() => {
            let workload = snapshot.workload.iter().flat_map(|workload| &workload.argv);
            workload.map(Into::into).collect()
        }
        None => own.iter().flat_map(|own| &own.entrypoint).map(Into::into).collect(),
    };
    words.extend(given.iter().cloned());
    if words.is_empty() { Err(no_command(target)) } else { Ok(words) }
}

/// The error for a run that has nothing to run.
pub(super) fn no_command(target: &str) -> Error {
    UsageError::NoCommand { name: target.to_owned() }.into()
}
