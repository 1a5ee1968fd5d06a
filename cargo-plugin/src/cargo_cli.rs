//! The command line of `cargo supermachine`: the commands on a package, and the commands of
//! `supermachine` except `run`, which is cargo's here.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::{self, USAGE};
use crate::commands::{bake, bundle, cargo, runner, update};
use crate::error::Error;
use crate::first_word::subcommand_position;
use crate::globals::Globals;

const NAME: &str = "cargo supermachine";

const LONG_ABOUT: &str = "\
Build, run and ship programs that contain microVMs.

`build`, `run`, `test` and `check` call cargo with all their arguments. They sign programs for \
macOS, where only signed programs may use the hypervisor, and put the snapshots of the package's \
build script beside them. `bundle` packages a program with its snapshots.";

const EXAMPLES: &str = "\
Examples:
  cargo supermachine build --release            run `cargo build`, and sign programs for macOS
  cargo supermachine run -- --port 8080         run `cargo run`
  cargo supermachine test --workspace -- --nocapture
  cargo supermachine bake                       bake the declared snapshots without building
  cargo supermachine bundle --format tar        package the program with its snapshots
  cargo supermachine update                     update the pins in supermachine.lock

`cargo supermachine help COMMAND` explains a command.";

#[derive(Debug, Parser)]
#[command(name = "supermachine", bin_name = NAME, version, long_about = LONG_ABOUT)]
#[command(about = "Build, run and ship programs with microVMs", after_help = EXAMPLES)]
#[command(max_term_width = 100, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bake(bake::Args),
    Build(cargo::BuildArgs),
    Run(cargo::RunArgs),
    Test(cargo::TestArgs),
    Check(cargo::CheckArgs),
    Bundle(bundle::Args),
    Update(update::Args),
    #[command(hide = true)]
    Runner(runner::Args),
}

impl Command {
    fn exec(&self, globals: &Globals) -> Result<u8, Error> {
        match self {
            Self::Bake(args) => bake::exec(args, globals),
            Self::Build(args) => cargo::build(args),
            Self::Run(args) => cargo::run(args),
            Self::Test(args) => cargo::test(args),
            Self::Check(args) => cargo::check(args),
            Self::Bundle(args) => bundle::exec(args, globals),
            Self::Update(args) => update::exec(args, globals),
            Self::Runner(args) => runner::exec(args),
        }
    }

    /// Sets the arguments for cargo.
    fn pass(&mut self, words: Vec<OsString>) {
        match self {
            Self::Build(args) => args.passed.arguments = words,
            Self::Run(args) => args.passed.arguments = words,
            Self::Test(args) => args.passed.arguments = words,
            Self::Check(args) => args.passed.arguments = words,
            _ => {}
        }
    }
}

/// A parsed command line.
enum Invocation {
    /// A command on a package.
    Package(Box<Cli>),
    /// A command of `supermachine`.
    Machines(Box<cli::Cli>),
}

/// Parses the arguments, runs the command, and returns the exit status.
pub(crate) fn execute(arguments: Vec<OsString>) -> u8 {
    let given = arguments.clone();
    match parse(arguments) {
        Ok(Invocation::Package(cli)) => cli::status_of(cli.command.exec(&cli.globals), |_| 1),
        Ok(Invocation::Machines(cli)) => cli.execute(),
        Err(error) => cli::refuse(&error, &given, USAGE),
    }
}

fn parse(mut arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
    let passed = take_passed(&mut arguments);
    let mut matches = definition().try_get_matches_from(arguments)?;
    if !matches.subcommand_name().is_some_and(Command::has_subcommand) {
        let cli = cli::Cli::from_arg_matches_mut(&mut matches)?;
        return Ok(Invocation::Machines(Box::new(cli)));
    }
    let mut cli = Cli::from_arg_matches_mut(&mut matches)?;
    cli.command.pass(passed);
    Ok(Invocation::Package(Box::new(cli)))
}

fn definition() -> clap::Command {
    let mut ours = Cli::command();
    for command in cli::Cli::command().get_subcommands() {
        if ours.find_subcommand(command.get_name()).is_none() {
            ours = ours.subcommand(command.clone());
        }
    }
    ours
}

/// Removes everything behind `build`, `run`, `test` and `check`, unless it asks for help. Clap
/// would remove our own options and the first `--`.
fn take_passed(arguments: &mut Vec<OsString>) -> Vec<OsString> {
    let is_cargos = |name: &OsString| ["build", "run", "test", "check"].iter().any(|n| name == n);
    let place = match subcommand_position(arguments) {
        Some(place) if arguments.get(place).is_some_and(is_cargos) => place + 1,
        _ => return Vec::new(),
    };
    let mut before_dashes = arguments.iter().skip(place).take_while(|word| *word != "--");
    match before_dashes.find(|word| *word == "-h" || *word == "--help").cloned() {
        Some(help) => {
            arguments.truncate(place);
            arguments.push(help);
            Vec::new()
        }
        None => arguments.split_off(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(line: &str) -> Invocation {
        let words = std::iter::once("x").chain(line.split_whitespace());
        parse(words.map(Into::into).collect()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn passed(line: &str) -> (Vec<OsString>, bool) {
        match invocation(line) {
            Invocation::Package(cli) => match cli.command {
                Command::Run(args) => (args.passed.arguments, cli.globals.quiet),
                _ => panic!("{line} is not `run`"),
            },
            Invocation::Machines(_) => panic!("{line} is not `run`"),
        }
    }

    #[test]
    fn command_line_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn arguments_behind_a_cargo_command_are_passed_on() {
        assert_eq!(passed("run"), (vec![], false));
        assert_eq!(
            passed("-q run -q --store x"),
            (vec!["-q".into(), "--store".into(), "x".into()], true)
        );
        assert_eq!(
            passed("run -- --help --"),
            (vec!["--".into(), "--help".into(), "--".into()], false)
        );
        assert_eq!(passed("--store run run run").0, ["run"]);
    }

    #[test]
    fn help_and_other_commands_are_parsed_here() {
        let Err(error) = parse(["x", "run", "--release", "-h"].map(Into::into).into()) else {
            panic!("no help");
        };
        assert!(error.to_string().contains("Usage: cargo supermachine run"), "{error}");
        assert!(matches!(invocation("ls --json"), Invocation::Machines(_)));
    }
}
