//! `supermachine volume`: makes, lists and removes named volumes.

use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use supermachine::{Volume, VolumeError, VolumeFolder, VolumeInfo};

use crate::error::{Error, UsageError};
use crate::globals::Globals;
use crate::output_format::FormatArgs;
use crate::{format, machine_size, report};

/// Manage volumes
///
/// A volume is a disk with a name, which `supermachine run -v NAME:/PATH` gives to a machine, one at a time. It
/// stays until `volume rm` removes it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an empty volume; one that exists stays as it is
    Create {
        /// Name the volume
        name: String,
        /// Let files on it take this much, as in 20g: a limit, which takes no room in advance [default: 8g]
        #[arg(long, value_name = "SIZE", value_parser = machine_size::bytes, default_value_t = Volume::DEFAULT_SIZE, hide_default_value = true)]
        size: u64,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show the details of volumes, as JSON
    Inspect {
        /// Show these volumes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove volumes with all that is on them
    #[command(alias = "remove")]
    Rm {
        /// Remove these volumes
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Ignore volumes that do not exist
        #[arg(short, long)]
        force: bool,
    },
    /// Remove all volumes that no machine has now
    Prune {
        /// Remove them without a question
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    path: String,
    /// The limit, in bytes.
    size: u64,
    /// Bytes that it takes on this host.
    used: u64,
    /// Seconds since 1970-01-01 UTC.
    created: Option<u64>,
    in_use: bool,
}

impl From<VolumeInfo> for Row {
    fn from(info: VolumeInfo) -> Self {
        let since = info.created.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            name: info.name,
            path: info.path.display().to_string(),
            size: info.size,
            used: info.used,
            created: since.map(|since| since.as_secs()),
            in_use: info.is_in_use,
        }
    }
}

/// Returns 1 if one of several volumes cannot be shown or removed.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let volumes = VolumeFolder::open_default()?;
    match &args.command {
        Command::Create { name, size } => {
            volumes.create(name, *size)?;
            print(&format!("{name}\n"))?;
            Ok(0)
        }
        Command::Ls { format } => ls(&volumes, *format, globals),
        Command::Inspect { names } => inspect(&volumes, names),
        Command::Rm { names, force } => Ok(for_each(names, |name| match volumes.remove(name) {
            Err(VolumeError::Missing { .. }) if *force => Ok(()),
            removed => Ok(removed?),
        })),
        Command::Prune { force } => prune(&volumes, *force, globals),
    }
}

fn ls(volumes: &VolumeFolder, format: FormatArgs, globals: &Globals) -> Result<u8, Error> {
    let rows: Vec<Row> = volumes.list()?.into_iter().map(Row::from).collect();
    let text = if globals.quiet {
        rows.iter().map(|row| format!("{}\n", row.name)).collect()
    } else if format.is_json() {
        format::json(&rows)
    } else {
        table(&rows)
    };
    print(&text)?;
    Ok(0)
}

fn inspect(volumes: &VolumeFolder, names: &[String]) -> Result<u8, Error> {
    let mut rows = Vec::new();
    let failed = for_each(names, |name| {
        rows.push(Row::from(volumes.get(name)?));
        Ok(())
    });
    print(&format::json(&rows))?;
    Ok(failed)
}

fn prune(volumes: &VolumeFolder, force: bool, globals: &Globals) -> Result<u8, Error> {
    let unused = volumes.list()?.into_iter().filter(|volume| !volume.is_in_use);
    let (names, used): (Vec<_>, Vec<_>) = unused.map(|volume| (volume.name, volume.used)).unzip();
    if names.is_empty() {
        return Ok(0);
    }
    if !force {
        return Err(UsageError::PruneVolumes { names }.into());
    }
    let failed = for_each(&names, |name| {
        volumes.remove(name)?;
        print(&format!("{name}\n"))
    });
    if !globals.quiet && failed == 0 {
        report::note(&format!("freed {}", format::bytes(used.iter().sum())));
    }
    Ok(failed)
}

/// Acts on each, and reports those that fail. Returns the exit status.
fn for_each(names: &[String], mut act: impl FnMut(&str) -> Result<(), Error>) -> u8 {
    let failures = names.iter().filter_map(|name| act(name).err());
    let count = failures.inspect(|error| report::error(error)).count();
    u8::from(count > 0)
}

fn print(text: &str) -> Result<(), Error> {
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = ["NAME", "SIZE", "USED", "IN USE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let in_use = if row.in_use { "yes" } else { "no" };
        [row.name.clone(), format::bytes(row.size), format::bytes(row.used), in_use.to_owned()]
    });
    format::table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}
