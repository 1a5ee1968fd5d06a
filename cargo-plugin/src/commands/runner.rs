//! `cargo supermachine runner`: signs a program for macOS, links snapshots beside it, and starts it
//! in its own place. Cargo calls it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::bundle;
use crate::codesign;
use crate::error::Error;
use crate::package::{self, Program};

/// Start a program that cargo has built
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A word of the user's configured runner, which starts the program
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    then: Vec<OsString>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    argv: Vec<OsString>,
}

/// Replaces this process by the program, or by the runner that starts it.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let program = Program { then: args.then.clone(), argv: args.argv.clone() };
    let path = program.path();
    // Cargo sets the variables of the package's build script for its programs.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let packs = package::packs_of_variables(variables);
    package::link_beside(&path, &packs).map_err(|source| Error::File {
        operation: "put snapshots beside",
        path: path.clone(),
        source,
    })?;
    if codesign::is_for_macos(&path) {
        // Cargo sets the package's folder.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.map(|dir| dir.join("Cargo.toml"));
        let entitlements = manifest.map_or(Ok(None), |path| bundle::entitlements(&path))?;
        codesign::sign_to_run(&path, entitlements.as_deref())?;
    }
    Err(package::replace_process(program.command()).into())
}
