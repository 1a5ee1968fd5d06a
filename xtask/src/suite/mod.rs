//! Running every test: those that need a hypervisor in the picked host, the others here.
//!
//! An integration test whose name starts with `vm_` needs a hypervisor. No test passes by being
//! skipped: without a host, the run fails.

mod args;
mod outcome;
mod phases;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_kernel::Arch;

pub(crate) use self::args::Args;
use self::args::{CROSS, FULL, is_full};
use self::outcome::{Outcome, summary, watch};
use self::phases::Phases;
use self::programs::{Program, build};
use crate::apps;
use crate::assets;
use crate::cross;
use crate::error::Error;
use crate::gate;
use crate::host::{self, Kind};
use crate::images;
use crate::packages;
use crate::tools;
use crate::workspace;

/// An emulated host has one processor, so two of them use two of ours.
const SIDE_BY_SIDE: usize = 2;
/// How often a test program runs again because its host's clock stopped. One host in sixteen does
/// that, so twice in one program is not rare enough.
const REPEATS: usize = 2;
/// The test program that runs in several hosts with different processors.
const PROCESSORS_PROGRAM: &str = "vm_cpu";
/// Its modules to run on each processor, one after the other on one store. `None` is the emulated
/// host's default model.
const PROCESSORS: [(Option<&str>, &[&str]); 4] = [
    (None, &["baking::"]),
    (Some("Skylake-Server,vendor=AuthenticAMD,+svm,+npt"), &["running::"]),
    (Some("max,vendor=AuthenticAMD,+svm,+npt"), &["running::", "baking_host::"]),
    (None, &["running::", "refusing::"]),
];
/// Names that store to [`PROCESSORS_PROGRAM`].
const PROCESSORS_STORE: &str = "SUPERMACHINE_TEST_CPU_STORE";
/// Names the folder of a program's assets to it.
const ASSETS: &str = "SUPERMACHINE_SNAPSHOTS";
/// The memory of an emulated host for tests; it also holds their files.
const MEMORY_MIB: u32 = 6144;

/// This program, to start a host with and to run in it.
#[derive(Debug)]
struct Us {
    here: PathBuf,
    there: PathBuf,
}

/// Runs the gate and every test.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let mut phases = Phases::default();
    if !args.no_gate && args.only.is_none() {
        phases.time("gate", || gate::run(&gate::Args::default()))?;
    }
    let mut outcomes = run(args, &mut phases)?;
    if args.only.is_none() && !args.isolated && !args.is_cross() && Arch::host() != CROSS {
        if is_full() {
            let isolated = Args { isolated: true, ..args.clone() };
            outcomes.extend(run(&isolated, &mut phases)?);
            let cross = Args { arch: Some(CROSS), host: None, ..args.clone() };
            outcomes.extend(run(&cross, &mut phases)?);
        } else {
            println!("NOT RUN without {FULL}: guests of {}, isolated machines", CROSS.name());
        }
    }
    println!("\n{phases}");
    Ok(summary(&outcomes))
}

/// Runs every test of an architecture.
fn run(args: &Args, phases: &mut Phases) -> Result<Vec<Outcome>, Error> {
    let arch = args.arch();
    let kind = host::pick(arch, args.host())?;
    host::require(kind)?;
    packages::ensure(packages::TESTS)?;
    let (mut outcomes, mut in_host) = phases.time("tests without a host", || {
        thread::scope(|scope| {
            if args.only.is_none() {
                // Making images takes minutes of one processor, and linking the tests leaves one
                // idle. If it fails, it fails again where the images are needed.
                scope.spawn(move || images::ensure_for_tests(arch, args.is_full()));
            }
            run_here(args)
        })
    })?;
    if args.only.is_none() && !args.is_cross() && !args.isolated {
        // The agent has no documentation tests and is built separately.
        let mut doc = workspace::cargo();
        doc.args(["test", "--quiet", "--doc", "--profile", workspace::PROFILE]);
        doc.args(workspace::LIBRARIES);
        outcomes.push(watch("documentation", &mut doc)?);
    }
    if args.only.is_none() {
        args.leave_out(&mut in_host);
    }
    if !in_host.is_empty() {
        phases.time("kernel, agent and images", || prepare_hosts(args, &in_host))?;
        println!("{} test programs in the {} {} host", in_host.len(), kind.name(), arch.name());
        outcomes.extend(phases.time("tests in hosts", || side_by_side(&in_host, kind, args))?);
    }
    Ok(outcomes)
}

/// Makes what the test programs find in their hosts.
fn prepare_hosts(args: &Args, programs: &[Program]) -> Result<(), Error> {
    assets::ensure(args.arch())?;
    images::ensure_for_tests(args.arch(), args.is_full())?;
    if programs.iter().any(|program| program.name == apps::PROGRAM) {
        apps::prepare()?;
    }
    if programs.iter().any(|program| program.name == tools::FILE_SYSTEM_PROGRAM) {
        tools::file_system_tests()?;
    }
    Ok(())
}

/// Builds every test program, runs those that need no host, and returns the others.
fn run_here(args: &Args) -> Result<(Vec<Outcome>, Vec<Program>), Error> {
    let mut outcomes = Vec::new();
    let mut in_host = Vec::new();
    // The command with signing replaces the one without in the target folder, so it is built after
    // the tests of the latter.
    let mut rounds: Vec<&[&[&str]]> = vec![workspace::SELECTIONS];
    if args.is_cross() || args.isolated {
        // The agent's own tests need no guest.
        rounds = vec![&[workspace::LIBRARIES]];
    } else if args.signs() {
        rounds.push(&[workspace::SIGNING]);
    }
    for selections in rounds {
        let programs = build(args.arch(), selections, args.only.as_deref(), &args.targets())?;
        for program in programs {
            // Nothing of another architecture runs here.
            if program.needs_host || args.is_cross() {
                in_host.push(program);
            } else {
                outcomes.push(watch(&program.name, &mut program.here(args))?);
            }
        }
    }
    match &args.only {
        Some(part) if outcomes.is_empty() && in_host.is_empty() => Err(Error::Unexpected {
            what: "test programs",
            expected: format!("one named {part}"),
            found: "none".into(),
        }),
        _ => Ok((outcomes, in_host)),
    }
}

impl Program {
    fn here(&self, args: &Args) -> Command {
        let mut command = self.prepared(Command::new(&self.path));
        command.args(args.choice()).args(&args.arguments);
        command
    }

    /// Runs it in a host; [`PROCESSORS_PROGRAM`] in one for each processor.
    fn run_in_host(&self, us: &Us, kind: Kind, args: &Args) -> Result<Vec<Outcome>, Error> {
        if self.name != PROCESSORS_PROGRAM {
            return Ok(vec![watch_in_host(&self.label(args), || {
                let mut command = self.in_host(us, kind, None, args);
                command.args(args.choice()).args(&args.arguments);
                command
            })?]);
        }
        let store = tempfile::tempdir().map_err(Error::system("make a folder"))?;
        let mut outcomes = Vec::new();
        let mut runs = PROCESSORS.to_vec();
        if kind == Kind::Native {
            println!("[{}] tried on this machine's processor only", self.name);
            runs = vec![(None, &["baking::"]), (None, &["running::", "baking_host::"])];
        }
        for (cpu, modules) in runs {
            let model = cpu.and_then(|cpu| cpu.split(',').next()).unwrap_or("usual host");
            outcomes.push(watch_in_host(&format!("{}, {model}", self.name), || {
                let mut command = self.in_host(us, kind, cpu, args);
                command.args(modules).env(PROCESSORS_STORE, store.path());
                // A filter would bring back modules that are for another host.
                command.args(args.arguments.iter().filter(|text| text.starts_with('-')));
                command
            })?);
        }
        Ok(outcomes)
    }

    /// Its name in reports.
    fn label(&self, args: &Args) -> String {
        match (args.is_cross(), args.isolated) {
            (true, _) => format!("{}, {}", self.name, args.arch().name()),
            (false, true) => format!("{}, isolated", self.name),
            (false, false) => self.name.clone(),
        }
    }

    /// The command that runs it in its own host, with the test registry serving.
    fn in_host(&self, us: &Us, kind: Kind, cpu: Option<&str>, args: &Args) -> Command {
        let mut command = Command::new(&us.here);
        command.args(["host", "--host", kind.name(), "--timeout", &args.timeout.to_string()]);
        command.args(["--memory", &MEMORY_MIB.to_string(), "--arch", args.arch().name()]);
        command.args(cpu.into_iter().flat_map(|cpu| ["--cpu", cpu]));
        command.arg("--").arg(&us.there);
        command.args(["registry", "--"]).arg(&self.path);
        if args.isolated {
            // Where the worker is built to.
            command.envs(self.path.parent().and_then(Path::parent).map(|dir| (ASSETS, dir)));
        }
        if kind != Kind::Native {
            command.env("TMPDIR", host::emulated::FAST_FOLDER);
        }
        if args.is_cross() {
            command.env_remove(FULL);
        }
        self.prepared(command)
    }

    /// Sets folder and environment as cargo does for a test program.
    fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(&self.package);
        if self.name == apps::PROGRAM {
            command.env(apps::VARIABLE, workspace::target()).envs(apps::PROFILE);
        }
        if self.name == tools::FILE_SYSTEM_PROGRAM {
            command.env(tools::FILE_SYSTEM_VARIABLE, tools::file_system_folder());
        }
        command.env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

fn side_by_side(programs: &[Program], kind: Kind, args: &Args) -> Result<Vec<Outcome>, Error> {
    let here = workspace::this_program()?;
    let there = if args.is_cross() { cross::this_program()? } else { here.clone() };
    let us = Us { here, there };
    let queue = Mutex::new(programs.iter());
    let lanes = if kind == Kind::Native { 1 } else { SIDE_BY_SIDE };
    let run = || {
        let mut outcomes = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(program) = next else { return Ok(outcomes) };
            outcomes.extend(program.run_in_host(&us, kind, args)?);
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(run)).collect();
        let mut outcomes = Vec::new();
        for lane in lanes {
            match lane.join() {
                Ok(done) => outcomes.extend(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(outcomes)
    })
}

/// Runs a test program in a host, and again in a new host if the host's clock stops.
fn watch_in_host(name: &str, command: impl Fn() -> Command) -> Result<Outcome, Error> {
    let mut outcome = watch(name, &mut command())?;
    for _ in 0..REPEATS {
        if outcome.status != Some(i32::from(host::CLOCK_STOPPED)) {
            break;
        }
        println!("[{name}] running again: the emulated host's clock stopped");
        let next = watch(name, &mut command())?;
        outcome = Outcome { was_repeated: true, took: outcome.took + next.took, ..next };
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that succeeds on its `nth` run, and before that exits as a stopped host does.
    fn succeeding(nth: usize) -> impl Fn() -> Command {
        let runs = std::cell::Cell::new(0);
        move || {
            runs.set(runs.get() + 1);
            let status = if runs.get() == nth { 0 } else { host::CLOCK_STOPPED };
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exit {status}")]);
            shell
        }
    }

    #[test]
    fn test_program_whose_host_stops_runs_again_twice() {
        for nth in [2, 3] {
            let outcome = watch_in_host("again", succeeding(nth)).unwrap();
            assert!(outcome.succeeded && outcome.was_repeated);
        }
        let outcome = watch_in_host("still", succeeding(4)).unwrap();
        assert!(!outcome.succeeded && outcome.was_repeated);
        let outcome = watch_in_host("first", succeeding(1)).unwrap();
        assert!(outcome.succeeded && !outcome.was_repeated);
    }
}
