//! `supermachine gc`: deletes what no snapshot needs.

use std::io::{self, Write};

use supermachine_baker::{ItemTotal, SweepOptions, Swept};

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, report, store};

/// Delete what no snapshot needs
///
/// Deletes blobs that no name refers to, cache files that no snapshot of the store uses, downloaded
/// layers, and temporary files of killed commands. Keeps booted kernels for the next bake, unless --all is given. Waits for
/// bakes, imports, pulls and pushes to finish. Running machines are not affected.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Delete booted kernels too
    #[arg(long)]
    all: bool,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Fail instead of waiting for other commands
    #[arg(long)]
    no_wait: bool,
}

/// Sweeps, and prints what was freed.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open_with_cache(globals.store.as_deref())?;
    let mut options = SweepOptions::default();
    (options.all, options.dry_run, options.wait) = (args.all, args.dry_run, !args.no_wait);
    let waiting = || {
        if !globals.quiet {
            report::note("waiting for other commands to finish with the store");
        }
    };
    let swept = match store {
        Some(store) => store.sweep(options, waiting)?,
        None => Swept::default(),
    };
    let text = text(&swept, args.dry_run);
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })?;
    Ok(0)
}

fn text(swept: &Swept, is_dry_run: bool) -> String {
    let amount = |freed: ItemTotal| format!("{} in {}", format::bytes(freed.bytes), freed.count);
    let rows = [
        ["blobs".to_owned(), amount(swept.blobs)],
        ["mapped forms".to_owned(), amount(swept.mapped)],
        ["downloads".to_owned(), amount(swept.downloads)],
        ["leftovers".to_owned(), amount(swept.leftovers)],
        ["keys".to_owned(), swept.keys.to_string()],
        ["locks".to_owned(), swept.locks.to_string()],
    ];
    let bytes =
        [swept.blobs, swept.mapped, swept.downloads, swept.leftovers].map(|freed| freed.bytes);
    let all = format::bytes(bytes.into_iter().fold(0, u64::saturating_add));
    let verb = if is_dry_run { "to be freed" } else { "freed" };
    format!("{}{verb}: {all}\n", format::table(&rows))
}
