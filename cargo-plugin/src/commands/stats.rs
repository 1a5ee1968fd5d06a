//! `supermachine stats`: shows what machines in the background use.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use supermachine::VmStats;

use crate::error::Error;
use crate::machines::Machines;
use crate::output_format::FormatArgs;
use crate::{background, format, report};

/// Show the memory and processor time of machines in the background
///
/// Prints one sample. MEMORY is what the guest uses of its memory, CPU the processor time since the machine
/// started, EXITS how often the guest returned to the host.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show these machines [default: all that run]
    #[arg(value_name = "MACHINE")]
    names: Vec<String>,
    /// Print one sample, which is the default
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    memory_used: u64,
    memory_total: u64,
    cpu_seconds: f64,
    exits: u64,
}

/// Prints a table. Returns 1 if a machine does not answer.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let names = match args.names.as_slice() {
        [] => Machines::locate().names()?,
        names => names.to_vec(),
    };
    let (mut rows, mut status) = (Vec::new(), 0);
    for name in names {
        let stats = background::connect_running(&name).and_then(|vm| Ok(vm.stats()?));
        match stats {
            Ok(stats) => rows.push(Row::new(name, stats)),
            Err(error) if args.names.is_empty() && error.is_transient() => {}
            Err(error) => {
                report::error(&error);
                status = 1;
            }
        }
    }
    if rows.is_empty() && status != 0 {
        return Ok(status);
    }
    let text = if args.format.is_json() { format::json(&rows) } else { table(&rows) };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(status)
}

impl Row {
    fn new(name: String, stats: VmStats) -> Self {
        Self {
            name,
            memory_used: stats.memory_used_kib << 10,
            memory_total: stats.memory_total_kib << 10,
            cpu_seconds: stats.cpu_time.as_secs_f64(),
            exits: stats.exits,
        }
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "CPU", "MEMORY", "OF", "EXITS"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.name.clone(),
            format::time(Duration::from_secs_f64(row.cpu_seconds)),
            format::bytes(row.memory_used),
            format::bytes(row.memory_total),
            row.exits.to_string(),
        ]
    });
    format::table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}
