//! Development tasks: `cargo xtask COMMAND`.
//!
//! Owns what a developer or CI needs around the product: system packages, guest
//! assets, hosts with a working hypervisor, test images, the gate and the
//! benchmarks. The product itself knows nothing of it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for developers says what it does on the terminal"
)]

mod apps;
mod assets;
mod bench;
mod cache;
mod command;
mod error;
mod gate;
mod host;
mod images;
mod modules;
mod packages;
mod progress;
mod quickstart;
mod registry;
mod suite;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of supermachine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the guest kernel and the agent, if they are not there yet.
    Assets,
    /// Measure, in the host whose clock counts instructions.
    Bench(bench::Args),
    /// Check the sources only: format, lints, documents, budgets.
    Gate,
    /// Run a command in a host with a working hypervisor.
    Host(host::Args),
    /// Make the test images and push them into the test registry's storage.
    Images(images::Args),
    /// Show which modules of each crate name which, and the circles among them.
    Modules(modules::Args),
    /// Set everything up, then pull an image, restore it and run a command in it.
    Quickstart(quickstart::Args),
    /// Serve the test images on loopback while a command runs.
    Registry(registry::Args),
    /// Run the gate and every test.
    #[command(visible_alias = "ci")]
    Test(suite::Args),
}

fn main() -> ExitCode {
    if host::guest::is_wanted() {
        host::guest::run();
    }
    let done = match Cli::parse().task {
        Task::Assets => assets::exec(),
        Task::Bench(args) => bench::exec(&args),
        Task::Test(args) => suite::exec(&args),
        Task::Gate => gate::run().map(|()| 0),
        Task::Host(args) => host::exec(&args),
        Task::Images(args) => images::exec(&args),
        Task::Modules(args) => modules::exec(&args),
        Task::Quickstart(args) => quickstart::exec(&args),
        Task::Registry(args) => registry::exec(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
