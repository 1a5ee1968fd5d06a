//! `supermachine gc`: what nothing leads to is removed.

use std::io::{self, Write};

use supermachine_baker::{Freed, SweepOptions, Swept};

use crate::error::Error;
use crate::{Globals, format, report, store};

/// Remove what no snapshot needs
///
/// Removes blobs that no name leads to, files in the cache that no snapshot of the store uses, and what
/// killed commands left. Bases are kept, so that the next bake need not boot, unless --all is given.
/// Waits for bakes, imports, pulls and pushes; running machines are not disturbed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove bases too
    #[arg(long)]
    all: bool,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Fail instead of waiting
    #[arg(long)]
    no_wait: bool,
}

/// Sweeps and tells what was freed.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let Some(store) = store::open_existing(globals.store.as_deref())? else { return Ok(0) };
    let mut options = SweepOptions::default();
    (options.all, options.dry_run, options.wait) = (args.all, args.dry_run, !args.no_wait);
    let waiting = || {
        if !globals.quiet {
            report::note("waiting until nobody makes anything in the store");
        }
    };
    let swept = store.sweep(options, waiting)?;
    let text = text(&swept, args.dry_run);
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn text(swept: &Swept, is_rehearsal: bool) -> String {
    let of = |freed: Freed| format!("{} in {}", format::bytes(freed.bytes), freed.count);
    let rows = [
        ["blobs".to_owned(), of(swept.blobs)],
        ["mapped forms".to_owned(), of(swept.mapped)],
        ["leftovers".to_owned(), of(swept.leftovers)],
        ["keys".to_owned(), swept.keys.to_string()],
        ["locks".to_owned(), swept.locks.to_string()],
    ];
    let bytes = [swept.blobs, swept.mapped, swept.leftovers].map(|freed| freed.bytes);
    let all = format::bytes(bytes.into_iter().fold(0, u64::saturating_add));
    let verb = if is_rehearsal { "to be freed" } else { "freed" };
    format!("{}{verb}: {all}\n", format::table(&rows))
}
