//! `cargo supermachine bake`: the snapshots that packages declare, without building anything else.

use std::io::{self, Write};

use supermachine_baker::Wishes;

use crate::error::Error;
use crate::package::{self, Arguments, Selection};
use crate::{Globals, format, report};

/// Bake the snapshots that a package declares
///
/// Bakes what `[package.metadata.supermachine]` in Cargo.toml declares, and has cargo run the build
/// script if that bakes too, for which the package is checked but not built. What has been baked before
/// is found in the cache of builds, where later builds look. Tags get pinned in supermachine.lock.
///
/// The names of the snapshots are printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Use no network: only what was fetched before
    #[arg(long)]
    offline: bool,
}

/// Bakes, package by package.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let packages = args.selection.find()?;
    let mut wishes = Wishes::read();
    wishes.offline |= args.offline;
    let mut count = 0;
    for package in &packages {
        for made in package::bake(package, &wishes, globals.quiet)? {
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
            words.extend(wishes.offline.then(|| "--offline".into()));
            words.extend(globals.quiet.then(|| "--quiet".into()));
            let checked = package::build_as("check", Arguments::new(words))?;
            if !checked.status.success() {
                return Ok(package::status(checked.status));
            }
            if let Some(name) = checked.left_out() {
                return Err(Error::LeftOut { name });
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
