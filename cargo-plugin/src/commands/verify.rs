//! `supermachine verify`: checks every byte of snapshots.

use std::io::{self, Write};

use supermachine_baker::Verified;
use supermachine_snapshots::mapped::FormCheck;

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, report, store};

/// Check every byte of snapshots
///
/// Compares all blobs with their digests, parses state and index, and decompresses every chunk.
/// Deletes damaged files from the cache, which are rebuilt when needed. The exit status is 1 if a
/// snapshot is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check these snapshots
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// Check all snapshots of the store
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Prints a line for each snapshot, and the problems on standard error.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let mut names = args.names.clone();
    let store = match (names.first(), store::open_existing(globals.store.as_deref())?) {
        (_, Some(store)) => store,
        (Some(name), None) => store::open_for(globals.store.as_deref(), name)?,
        (None, None) => return Ok(0),
    };
    if args.all {
        names = store.names()?;
    }
    let mut status = 0;
    for name in &names {
        match store.verify(name) {
            Ok(verified) => {
                if !verified.problems.is_empty() {
                    status = 1;
                }
                print(name, &verified)?;
            }
            Err(error) => {
                report::error(&error);
                status = 1;
            }
        }
    }
    Ok(status)
}

fn print(name: &str, verified: &Verified) -> Result<(), Error> {
    let (size, chunks) = (format::bytes(verified.size), verified.chunks);
    let mapped = match verified.mapped {
        Some(FormCheck::Whole) => ", mapped form intact",
        Some(FormCheck::Removed) => ", damaged mapped form deleted",
        _ => "",
    };
    let line = match verified.problems.is_empty() {
        true => format!("{name}: intact, {size}, {chunks} chunks{mapped}"),
        false => format!("{name}: damaged"),
    };
    writeln!(io::stdout(), "{line}").map_err(|source| Error::Output { source })?;
    verified.problems.iter().for_each(|problem| report::error(problem));
    Ok(())
}
