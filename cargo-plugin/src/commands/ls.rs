//! `supermachine ls`: lists the snapshots in the store.

use std::io::{self, Write};

use serde::Serialize;
use supermachine_baker::Store;
use supermachine_formats::Digest;

use crate::error::Error;
use crate::globals::Globals;
use crate::output_format::FormatArgs;
use crate::{format, report, store};

/// List snapshots
///
/// SIZE is the disk usage of a snapshot, including the parts that it shares with others. With -q, prints
/// only names.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    image: Option<String>,
    memory_mib: u64,
    vcpus: u16,
    size: u64,
    digest: String,
    #[serde(skip)]
    short: String,
}

/// Prints a table of all snapshots. Returns 1 if one is damaged.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let mut rows = Vec::new();
    let mut is_whole = true;
    if let Some(store) = store::open_existing(globals.store.as_deref())? {
        for name in store.names()? {
            match row(&store, &name) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    is_whole = false;
                    report::warning(&format!("cannot use the snapshot {name}"));
                    report::error(&error);
                }
            }
        }
    }
    let text = if globals.quiet {
        rows.iter().map(|row| format!("{}\n", row.name)).collect()
    } else if args.format.is_json() {
        format::json(&rows)
    } else {
        if rows.is_empty() && is_whole {
            let dir = store::dir(globals.store.as_deref())?;
            report::note(&format!(
                "no snapshots in {}; `supermachine pull IMAGE` creates one",
                dir.display()
            ));
        }
        table(&rows)
    };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(u8::from(!is_whole))
}

fn row(store: &Store, name: &str) -> Result<Row, Error> {
    let digest: Digest = store.digest(name)?;
    let summary = store.summary(digest)?;
    let (size, snapshot) = (summary.size(), &summary.snapshot);
    Ok(Row {
        name: name.to_owned(),
        image: snapshot.workload.as_ref().map(|workload| workload.reference.clone()),
        memory_mib: snapshot.machine.memory_size >> 20,
        vcpus: snapshot.machine.vcpus,
        size,
        digest: digest.to_string(),
        short: format::short(digest),
    })
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = ["NAME", "IMAGE", "MEMORY", "VCPUS", "SIZE", "DIGEST"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.image.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{} MiB", row.memory_mib),
            row.vcpus.to_string(),
            format::bytes(row.size),
            row.short.clone(),
        ]
    });
    format::table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}
