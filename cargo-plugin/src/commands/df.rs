//! `supermachine df`: shows disk usage.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use supermachine_baker::Usage;

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, store};

/// Show disk usage
///
/// OWN counts the bytes of this snapshot alone, SHARED the bytes that other snapshots use too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    snapshots: BTreeMap<String, Sizes>,
    /// All blobs of the store.
    blobs: u64,
    /// Blobs kept for future bakes.
    kept: u64,
    /// Blobs that `gc` deletes.
    unreferenced: u64,
    /// Mapped forms in the cache.
    mapped: u64,
    /// Downloaded layers in the cache.
    downloads: u64,
}

#[derive(Debug, Serialize)]
struct Sizes {
    own: u64,
    shared: u64,
}

/// Prints the sizes.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let usage = match store::open_with_cache(globals.store.as_deref())? {
        Some(store) => store.usage()?,
        None => Usage::default(),
    };
    let sizes = |(name, (own, shared))| (name, Sizes { own, shared });
    let report = Report {
        snapshots: usage.snapshots.into_iter().map(sizes).collect(),
        blobs: usage.blobs,
        kept: usage.kept,
        unreferenced: usage.unreferenced,
        mapped: usage.mapped,
        downloads: usage.downloads,
    };
    let text = if args.json { format::json(&report) } else { report.text() };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

impl Report {
    fn text(&self) -> String {
        let head = ["NAME", "OWN", "SHARED"].map(str::to_owned);
        let row = |(name, sizes): (&String, &Sizes)| {
            [name.clone(), format::bytes(sizes.own), format::bytes(sizes.shared)]
        };
        let rows: Vec<_> = std::iter::once(head).chain(self.snapshots.iter().map(row)).collect();
        let sums = [
            ["all blobs".to_owned(), format::bytes(self.blobs)],
            ["kept for bakes".to_owned(), format::bytes(self.kept)],
            ["unreferenced".to_owned(), format::bytes(self.unreferenced)],
            ["mapped forms".to_owned(), format::bytes(self.mapped)],
            ["downloads".to_owned(), format::bytes(self.downloads)],
        ];
        format!("{}\n{}", format::table(&rows), format::table(&sums))
    }
}
