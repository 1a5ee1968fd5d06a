//! `supermachine import`: reads snapshots from a file or folder.

use std::io::{self, Write};
use std::path::PathBuf;

use supermachine_baker::Imported;

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, report, store};

/// Import snapshots from a file or folder
///
/// Reads files of `supermachine export`, other OCI archives and OCI layouts that contain snapshots, and
/// other stores. Checks everything before a snapshot gets its name, replaces snapshots of the same
/// name, and prints the names.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read this file or folder
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// Import one snapshot, the one of this name or the only one, under this name [default: all, under
    /// their own names]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Imports, and prints the names.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open(globals.store.as_deref())?;
    let imported = store.import(&args.from, args.name.as_deref())?;
    print(&imported, globals.quiet)
}

/// Prints the imported names.
pub(crate) fn print(imported: &[Imported], quiet: bool) -> Result<u8, Error> {
    for Imported { name, digest, copied, present, .. } in imported {
        if !quiet {
            let (copied, present) = (format::bytes(*copied), format::bytes(*present));
            let digest = format::short(*digest);
            report::note(&format!("{name} is {digest}, {copied} copied, {present} already here"));
        }
        writeln!(io::stdout(), "{name}").map_err(|source| Error::Output { source })?;
    }
    Ok(0)
}
