//! `supermachine export`: writes a snapshot to one file.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::globals::Globals;
use crate::{format, report, store};

/// Write a snapshot to one file
///
/// The file is an OCI archive. `supermachine import` reads it, programs start machines from it
/// directly, and tools such as skopeo and tar read it. The same snapshot gives the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Export this snapshot
    #[arg(value_name = "NAME")]
    name: String,
    /// Write to this file, replacing it; - writes to standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Writes the file.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let store = store::open_for(globals.store.as_deref(), &args.name)?;
    let size = if args.file == Path::new("-") {
        let mut stdout = report::stdout_for_archive()?;
        store.export_to(&args.name, &mut stdout, Path::new("standard output"))?
    } else {
        store.export(&args.name, &args.file)?
    };
    if !globals.quiet {
        let (file, size) = (args.file.display(), format::bytes(size));
        report::note(&format!("exported {} to {file}, {size}", args.name));
    }
    Ok(0)
}
