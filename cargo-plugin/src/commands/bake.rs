//! `cargo supermachine bake`: bakes the snapshots that packages declare, and builds nothing else.

use std::io::{self, Write};

use supermachine_baker::BuildEnv;

use crate::error::{Error, PackageError};
use crate::globals::Globals;
use crate::package::{self, Arguments, Selection};
use crate::{format, report};

/// Bake the snapshots that a package declares
///
/// Bakes the snapshots in `[package.metadata.supermachine]` of Cargo.toml. If the build script bakes,
/// runs `cargo check` so that it does. Later builds find the results in the build cache. Pins tags
/// in supermachine.lock, and prints the names of the snapshots.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Use only what is cached, without a network
    #[arg(long)]
    offline: bool,
}

/// Bakes each package.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let packages = args.selection.find()?;
    let mut env = BuildEnv::read();
    env.offline |= args.offline;
    let mut count = 0;
    for package in &packages {
        for made in package::bake(package, &env, globals.quiet)? {
            count += 1;
            writeln!(io::stdout(), "{}", made.name).map_err(|source| Error::Output { source })?;
            if !globals.quiet {
                let how = if made.baked.was_cached { "was baked before" } else { "baked" };
                let digest = format::short(made.baked.digest);
                report::note(&format!("{} of {} is {digest}, {how}", made.name, package.name));
            }
        }
        if package::bakes_in_its_build(package) {
            let manifest = package.manifest_path.clone().into();
            let mut words = vec!["--manifest-path".into(), manifest];
            words.extend(env.offline.then(|| "--offline".into()));
            words.extend(globals.quiet.then(|| "--quiet".into()));
            let checked = package::build_as("check", Arguments::new(words))?;
            if !checked.status.success() {
                return Ok(package::status(checked.status));
            }
            if let Some(name) = checked.skipped() {
                return Err(PackageError::BakeSkipped { name }.into());
            }
            for (name, path) in checked.packs_of(&package.id) {
                count += 1;
                writeln!(io::stdout(), "{name}").map_err(|source| Error::Output { source })?;
                if !globals.quiet {
                    report::note(&format!("{name} of {} is {}", package.name, path.display()));
                }
            }
        }
    }
    if count == 0 && !globals.quiet {
        let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
        report::note(&format!("{} declares no snapshots", names.join(", ")));
    }
    Ok(0)
}
