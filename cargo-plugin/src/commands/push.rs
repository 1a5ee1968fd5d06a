//! `supermachine push`: sends a snapshot to a registry.

use std::io::{self, Write};
use std::sync::Arc;

use supermachine_baker::BakeError;
use supermachine_baker::oci::Reference;

use super::pull::RegistryArgs;
use crate::error::Error;
use crate::globals::Globals;
use crate::progress::Progress;
use crate::{format, report, store};

/// Send a snapshot to a registry
///
/// Sends only what the registry lacks, and prints the manifest's digest. `supermachine pull REFERENCE`
/// fetches the snapshot; tools such as skopeo, oras and cosign copy and sign it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Send this snapshot
    #[arg(value_name = "NAME")]
    name: String,
    /// Send it to HOST[:PORT]/REPOSITORY[:TAG]
    #[arg(value_name = "REFERENCE")]
    reference: String,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pushes, and prints the digest.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let reference: Reference = args.reference.parse().map_err(BakeError::from)?;
    let store = store::open_for(globals.store.as_deref(), &args.name)?;
    let mut options = args.registry.options()?;
    let progress = Arc::new(Progress::new(globals.quiet));
    options.progress = Some(Arc::clone(&progress) as _);
    let pushed = store.push(&args.name, &reference, &options);
    progress.finish(pushed.is_ok());
    let pushed = pushed?;
    if !globals.quiet {
        let (moved, present) = (format::bytes(pushed.moved), format::bytes(pushed.present));
        report::note(&format!("{reference}: {moved} sent, {present} already there"));
    }
    writeln!(io::stdout(), "{}", pushed.digest).map_err(|source| Error::Output { source })?;
    Ok(0)
}
