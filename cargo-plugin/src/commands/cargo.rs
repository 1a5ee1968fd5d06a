//! `cargo supermachine build`, `run`, `test` and `check`: cargo's commands, with programs for macOS
//! signed before they start, and snapshots beside them.

use std::ffi::OsString;

use crate::bundle;
use crate::codesign;
use crate::error::Error;
use crate::package::{self, Arguments};
use crate::report;

const EVERYTHING_PASSES: &str = "\
All arguments are cargo's, and passed on: `cargo help build` tells which there are.";

/// Build the package, sign programs for macOS, and put links to snapshots beside them
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) passed: Passed,
}

/// Run a program or example of the package; it is signed before it starts, if it is for macOS
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) passed: Passed,
}

/// Run the package's tests; they are signed before they start, if they are for macOS
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) passed: Passed,
}

/// Check the package
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) passed: Passed,
}

/// What is passed on to cargo: everything behind the command's name, word for word.
#[derive(Debug, clap::Args)]
pub(crate) struct Passed {
    /// Arguments for cargo
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

/// Builds; cargo's status is ours.
pub(crate) fn build(args: &BuildArgs) -> Result<u8, Error> {
    let built = package::build_as("build", Arguments::new(args.passed.arguments.clone()))?;
    if built.status.success() {
        let (mut packs, conflicts) = (built.packs(), built.conflicts());
        packs.retain(|name, _| !conflicts.contains_key(name));
        for (name, [one, other]) in &conflicts {
            let (one, other) = (one.display(), other.display());
            report::warning(&format!(
                "two packages made a snapshot {name:?}, so that none is put beside programs: {one} \
                 and {other}"
            ));
        }
        for (program, manifest) in built.programs() {
            package::unlink_beside(&program, conflicts.keys())
                .and_then(|()| package::link_beside(&program, &packs))
                .map_err(|source| Error::Place {
                    operation: "put snapshots beside",
                    path: program.clone(),
                    source,
                })?;
            if codesign::is_for_macos(&program) {
                codesign::sign_to_run(&program, bundle::entitlements(&manifest)?.as_deref())?;
            }
        }
    }
    Ok(package::status(built.status))
}

/// Becomes `cargo run`.
pub(crate) fn run(args: &RunArgs) -> Result<u8, Error> {
    start("run", &args.passed)
}

/// Becomes `cargo test`.
pub(crate) fn test(args: &TestArgs) -> Result<u8, Error> {
    start("test", &args.passed)
}

/// Becomes `cargo check`.
pub(crate) fn check(args: &CheckArgs) -> Result<u8, Error> {
    let arguments = Arguments::new(args.passed.arguments.clone());
    Err(package::become_command(package::command("check", &arguments)).into())
}

fn start(command: &str, passed: &Passed) -> Result<u8, Error> {
    let mut arguments = Arguments::new(passed.arguments.clone());
    let sets_runner = |setting: &OsString| setting.to_string_lossy().contains(".runner");
    if arguments.values("--config").iter().any(sets_runner) {
        report::warning(
            "the runner given with --config replaces ours: what it starts is not signed",
        );
    }
    arguments.insert(package::configuration(&arguments)?);
    Err(package::become_command(package::command(command, &arguments)).into())
}
