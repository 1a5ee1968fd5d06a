//! `supermachine import`: snapshots come from a file or folder.

use std::io::{self, Write};
use std::path::PathBuf;

use supermachine_baker::Imported;

use crate::error::Error;
use crate::{Globals, format, report, store};

/// Take snapshots from a file or folder
///
/// Takes what `supermachine export` wrote, other OCI archives and OCI layout folders with snapshots in
/// them, and other stores. Everything is checked before it gets a name. The names are printed;
/// snapshots that have them already are replaced.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file or folder
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// Take one snapshot, the one of this name or the only one, and give it this name [default: all,
    /// under their own names]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Imports and prints the names.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open(globals.store.as_deref())?;
    let imported = store.import(&args.from, args.name.as_deref())?;
    tell(&imported, globals.quiet)
}

/// Prints what was imported.
pub(crate) fn tell(imported: &[Imported], quiet: bool) -> Result<u8, Error> {
    for Imported { name, digest, copied, present, .. } in imported {
        if !quiet {
            let (copied, present) = (format::bytes(*copied), format::bytes(*present));
            let digest = format::short(*digest);
            report::note(&format!("{name} is {digest}, {copied} copied, {present} were here"));
        }
        writeln!(io::stdout(), "{name}").map_err(|source| Error::Output { source })?;
    }
    Ok(0)
}
