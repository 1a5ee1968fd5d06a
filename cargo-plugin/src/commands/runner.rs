//! `cargo supermachine runner`: signs a program if it is for macOS, puts snapshots
//! beside it, and becomes it. Cargo calls it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::bundle;
use crate::codesign;
use crate::error::Error;
use crate::package::{self, Program};

/// Start a program that cargo has built
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A word of the runner that was configured, which gets the program
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    then: Vec<OsString>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    argv: Vec<OsString>,
}

/// Becomes the program, or the runner that starts it.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let program = Program { then: args.then.clone(), argv: args.argv.clone() };
    let path = program.path();
    // Cargo passes what the package's build script has set on to its programs.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let packs = package::packs_of_variables(variables);
    package::link_beside(&path, &packs).map_err(|source| Error::Place {
        operation: "put snapshots beside",
        path: path.clone(),
        source,
    })?;
    if codesign::is_for_macos(&path) {
        // Cargo tells whose program it is.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.map(|dir| dir.join("Cargo.toml"));
        let entitlements = manifest.map_or(Ok(None), |path| bundle::entitlements(&path))?;
        codesign::sign_to_run(&path, entitlements.as_deref())?;
    }
    Err(package::become_command(program.command()).into())
}
