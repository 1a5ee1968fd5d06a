//! Development tasks: `cargo xtask COMMAND`.
//!
//! Owns the surroundings of the product that developers and CI need: system packages, guest assets,
//! hosts with a working hypervisor, test images, the gate and the benchmarks. The product does not
//! depend on it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for developers prints what it does"
)]

mod apps;
mod apt;
mod assets;
mod bench;
mod cache;
mod command;
mod cross;
mod empty_disk;
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
    /// Build the guest kernel and the agent unless they exist
    Assets(assets::Args),
    /// Run the benchmarks in the host whose clock counts instructions
    Bench(bench::Args),
    /// Make the empty file system of new volumes, which is part of the sources
    EmptyDisk(empty_disk::Args),
    /// Check the sources: format, lints, documents, budgets, dependencies, arrows
    Gate(gate::Args),
    /// Run a command in a host with a working hypervisor
    Host(host::Args),
    /// Make the test images and push them to the test registry's storage
    Images(images::Args),
    /// Print each crate's modules, which of them name which, and their circles
    Modules(modules::Args),
    /// Set everything up, then pull an image, restore it and run a command
    Quickstart(quickstart::Args),
    /// Serve the test images on loopback while a command runs
    Registry(registry::Args),
    /// Run the gate and every test
    #[command(visible_alias = "ci")]
    Test(suite::Args),
}

fn main() -> ExitCode {
    if host::guest::is_wanted() {
        host::guest::run();
    }
    let done = match Cli::parse().task {
        Task::Assets(args) => assets::exec(&args),
        Task::Bench(args) => bench::exec(&args),
        Task::EmptyDisk(args) => empty_disk::exec(&args),
        Task::Test(args) => suite::exec(&args),
        Task::Gate(args) => gate::run(&args).map(|()| 0),
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
