//! The command line of `cargo supermachine`: the commands on a package, and those of
//! `supermachine` but its `run`, which here is cargo's.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{bake, bundle, cargo, runner, update};
use crate::error::Error;
use crate::{Globals, USAGE, subcommand_place};

const NAME: &str = "cargo supermachine";

const LONG_ABOUT: &str = "\
Build, run and ship programs that have microVMs in them.

`build`, `run`, `test` and `check` are cargo's, with all their arguments. Programs for macOS are \
signed before they start, as only signed programs may use the hypervisor there; programs find the \
snapshots of their package's build script beside them. `bundle` puts a program and its snapshots \
together for others.";

const EXAMPLES: &str = "\
Examples:
  cargo supermachine build --release            like `cargo build`, and signed if it is for macOS
  cargo supermachine run -- --port 8080         like `cargo run`
  cargo supermachine test --workspace -- --nocapture
  cargo supermachine bake                       bake what the package declares, and build nothing
  cargo supermachine bundle --format tar        the program with its snapshots, for others
  cargo supermachine update                     move the pins of supermachine.lock

`cargo supermachine help COMMAND` tells all about a command.";

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

    /// Takes cargo's arguments, which are not ours to read.
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

/// What a command line asks for.
enum Asked {
    /// A command on a package.
    Package(Box<Cli>),
    /// A command of `supermachine`.
    Machines(Box<crate::Cli>),
}

/// Does what the arguments ask for and returns the exit status.
pub(crate) fn execute(arguments: Vec<OsString>) -> u8 {
    match parse(arguments) {
        Ok(Asked::Package(cli)) => crate::status_of(cli.command.exec(&cli.globals), |_| 1),
        Ok(Asked::Machines(cli)) => cli.execute(),
        Err(error) => crate::refuse(&error, USAGE),
    }
}

fn parse(mut arguments: Vec<OsString>) -> Result<Asked, clap::Error> {
    let passed = take_passed(&mut arguments);
    let mut matches = definition().try_get_matches_from(arguments)?;
    if !matches.subcommand_name().is_some_and(Command::has_subcommand) {
        let cli = crate::Cli::from_arg_matches_mut(&mut matches)?;
        return Ok(Asked::Machines(Box::new(cli)));
    }
    let mut cli = Cli::from_arg_matches_mut(&mut matches)?;
    cli.command.pass(passed);
    Ok(Asked::Package(Box::new(cli)))
}

fn definition() -> clap::Command {
    let mut ours = Cli::command();
    for command in crate::Cli::command().get_subcommands() {
        if ours.find_subcommand(command.get_name()).is_none() {
            ours = ours.subcommand(command.clone());
        }
    }
    ours
}

/// Takes everything behind `build`, `run`, `test` and `check`, unless it asks for help: clap would
/// take our options and a first `--` out of it.
fn take_passed(arguments: &mut Vec<OsString>) -> Vec<OsString> {
    let is_cargos = |name: &OsString| ["build", "run", "test", "check"].iter().any(|n| name == n);
    let place = match subcommand_place(arguments) {
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

    fn asked(line: &str) -> Asked {
        let words = std::iter::once("x").chain(line.split_whitespace());
        parse(words.map(Into::into).collect()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn passed(line: &str) -> (Vec<OsString>, bool) {
        match asked(line) {
            Asked::Package(cli) => match cli.command {
                Command::Run(args) => (args.passed.arguments, cli.globals.quiet),
                _ => panic!("{line} is not `run`"),
            },
            Asked::Machines(_) => panic!("{line} is not `run`"),
        }
    }

    #[test]
    fn definition_of_the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn everything_behind_the_command_is_cargos() {
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
    fn help_and_the_other_commands_are_ours() {
        let Err(error) = parse(["x", "run", "--release", "-h"].map(Into::into).into()) else {
            panic!("no help");
        };
        assert!(error.to_string().contains("Usage: cargo supermachine run"), "{error}");
        assert!(matches!(asked("ls --json"), Asked::Machines(_)));
    }
}
