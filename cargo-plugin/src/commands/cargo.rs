//! `cargo supermachine build`, `run`, `test` and `check`: call cargo, sign programs for macOS before
//! they start, and put snapshots beside them.

use std::ffi::OsString;

use crate::bundle;
use crate::codesign;
use crate::error::Error;
use crate::package::{self, Arguments};
use crate::report;

const EVERYTHING_PASSES: &str = "\
All arguments go to cargo. `cargo help COMMAND` lists them.";

/// Build the package, sign programs for macOS, and link snapshots beside them
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) passed: CargoArguments,
}

/// Run a program or example of the package, signed first if it is for macOS
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) passed: CargoArguments,
}

/// Run the package's tests, signed first if they are for macOS
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) passed: CargoArguments,
}

/// Check the package
#[derive(Debug, clap::Args)]
#[command(after_help = EVERYTHING_PASSES)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) passed: CargoArguments,
}

/// Arguments for cargo: everything behind the command's name, word for word.
#[derive(Debug, clap::Args)]
pub(crate) struct CargoArguments {
    /// Arguments for cargo
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

/// Builds, and returns cargo's exit status.
pub(crate) fn build(args: &BuildArgs) -> Result<u8, Error> {
    let built = package::build_as("build", Arguments::new(args.passed.arguments.clone()))?;
    if built.status.success() {
        let (mut packs, conflicts) = (built.packs(), built.conflicts());
        packs.retain(|name, _| !conflicts.contains_key(name));
        for (name, [one, other]) in &conflicts {
            let (one, other) = (one.display(), other.display());
            report::warning(&format!(
                "two packages make a snapshot {name:?}, so programs get neither: {one} and {other}"
            ));
        }
        for (program, manifest) in built.programs() {
            package::unlink_beside(&program, conflicts.keys())
                .and_then(|()| package::link_beside(&program, &packs))
                .map_err(|source| Error::File {
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

/// Replaces this process by `cargo run`.
pub(crate) fn run(args: &RunArgs) -> Result<u8, Error> {
    start("run", &args.passed)
}

/// Replaces this process by `cargo test`.
pub(crate) fn test(args: &TestArgs) -> Result<u8, Error> {
    start("test", &args.passed)
}

/// Replaces this process by `cargo check`.
pub(crate) fn check(args: &CheckArgs) -> Result<u8, Error> {
    let arguments = Arguments::new(args.passed.arguments.clone());
    Err(package::replace_process(package::command("check", &arguments)).into())
}

fn start(command: &str, passed: &CargoArguments) -> Result<u8, Error> {
    let mut arguments = Arguments::new(passed.arguments.clone());
    let sets_runner = |setting: &OsString| setting.to_string_lossy().contains(".runner");
    if arguments.values("--config").iter().any(sets_runner) {
        // Cargo would refuse two runners of different forms, and join two of the same form.
        report::warning("the runner from --config replaces ours, so programs are not signed");
    } else {
        arguments.insert(package::configuration(&arguments)?);
    }
    Err(package::replace_process(package::command(command, &arguments)).into())
}
