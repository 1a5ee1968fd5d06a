//! A demonstration: pulls an image, bakes it, restores it, and runs a command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use supermachine_kernel::Arch;

use crate::assets;
use crate::command;
use crate::error::Error;
use crate::host::{self, Kind, Options};
use crate::images;
use crate::registry::Registry;
use crate::workspace;

/// `cargo xtask quickstart`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Host to use [default: the one that a probe picks]
    #[arg(long, value_enum)]
    host: Option<Kind>,
    /// The built command; set in the host, where only the demonstration is left to run
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
}

/// Sets everything up and runs the demonstration in a host.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    if let Some(program) = &args.program {
        show(program)?;
        return Ok(0);
    }
    let kind = host::pick(Arch::host(), args.host)?;
    host::require(kind)?;
    assets::ensure(Arch::host())?;
    images::ensure(Arch::host(), &["busybox"])?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--profile", workspace::PROFILE, "--package", "cargo-supermachine"]);
    command::run(&mut cargo)?;
    let program = workspace::target().join(workspace::PROFILE).join("supermachine");
    let us = workspace::this_program()?;
    let mut command = Command::new(us);
    command.args(["quickstart", "--program"]).arg(program);
    println!("in the {} host:", kind.name());
    host::run(kind, &command, &Options::default())
}

fn show(program: &Path) -> Result<(), Error> {
    let registry = Registry::start(Arch::host())?;
    let image = format!("{}/busybox", registry.address);
    step(Command::new(program).args(["pull", &image, "--name", "hello"]))?;
    let words = ["run", "--timings", "hello", "/bin/echo", "hello from a microVM"];
    step(Command::new(program).args(words))
}

/// Prints and runs one command, then prints its duration.
fn step(command: &mut Command) -> Result<(), Error> {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    println!("\n$ supermachine {}", words.collect::<Vec<_>>().join(" "));
    let began = Instant::now();
    command::run(command)?;
    println!("({:.2} s)", began.elapsed().as_secs_f64());
    Ok(())
}
