//! Running every test: those that need a hypervisor in the picked host, the others here.
//!
//! An integration test whose name starts with `vm_` needs a hypervisor. No test passes by being
//! skipped: without a host, the run fails.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::apps;
use crate::assets;
use crate::command;
use crate::error::Error;
use crate::gate;
use crate::host::{self, Kind};
use crate::images;
use crate::packages;
use crate::workspace;

/// The prefix of integration tests that need a hypervisor.
const VM_PREFIX: &str = "vm_";
/// An emulated host has one processor, so two of them use two of ours.
const SIDE_BY_SIDE: usize = 2;
/// Started first, so that the run does not end with one host busy and one idle.
const LONGEST_PROGRAM: &str = "vm_services_1";
/// Asks for the long tests too.
const FULL: &str = "SUPERMACHINE_TEST_FULL";
/// Test programs of long runs: what they try lies between one vCPU and sixteen.
const LONG_PROGRAMS: [&str; 3] = ["vm_services_2", "vm_services_4", "vm_services_8"];
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
/// The memory of an emulated host for tests; it also holds their files.
const MEMORY_MIB: u32 = 6144;

/// `cargo xtask test`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Host for tests that need a hypervisor [default: the one that a probe picks]
    #[arg(long, value_enum)]
    host: Option<Kind>,
    /// Run only test programs whose names contain NAME
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Skip the gate
    #[arg(long)]
    no_gate: bool,
    /// Stop a test program in a host after SECONDS
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Arguments for the test programs, such as a filter
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// One test program.
#[derive(Debug)]
struct Program {
    name: String,
    path: PathBuf,
    package: PathBuf,
    needs_host: bool,
}

/// The result of one test program.
#[derive(Debug, Default)]
struct Outcome {
    name: String,
    passed: u64,
    failed: u64,
    succeeded: bool,
    status: Option<i32>,
    took: Duration,
    /// Whether it ran again because the host's clock stopped.
    was_repeated: bool,
}

/// Runs the gate and every test.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let mut phases = Phases::default();
    if !args.no_gate && args.only.is_none() {
        phases.time("gate", || gate::run(&gate::Args::default()))?;
    }
    let kind = args.host.unwrap_or_else(host::pick);
    host::require(kind)?;
    packages::ensure(packages::TESTS)?;
    let (mut outcomes, mut in_host) = thread::scope(|scope| {
        // Making images takes minutes of one processor, and linking the tests leaves one idle.
        let images =
            args.only.is_none().then(|| scope.spawn(|| images::ensure_for_tests(is_full())));
        let programs = phases.time("tests without a host", || run_here(args));
        if let Some(images) = images {
            phases.time("rest of the images", || {
                images.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
        }
        programs
    })?;
    if args.only.is_none() {
        // The agent has no documentation tests and is built separately.
        let mut doc = workspace::cargo();
        doc.args(["test", "--quiet", "--doc", "--profile", workspace::PROFILE]);
        doc.args(workspace::LIBRARIES);
        outcomes.push(watch("documentation", &mut doc)?);
    }
    if !in_host.is_empty() {
        phases.time("kernel, agent and images", || prepare_hosts(&in_host))?;
        if args.only.is_none() && !is_full() {
            in_host.retain(|program| !LONG_PROGRAMS.contains(&&*program.name));
            println!("NOT RUN without {FULL}: {}", LONG_PROGRAMS.join(", "));
        }
        println!("{} test programs in the {} host", in_host.len(), kind.name());
        outcomes.extend(phases.time("tests in hosts", || side_by_side(&in_host, kind, args))?);
    }
    println!("\n{phases}");
    Ok(summary(&outcomes))
}

/// Makes what the test programs find in their hosts.
fn prepare_hosts(programs: &[Program]) -> Result<(), Error> {
    assets::ensure()?;
    images::ensure_for_tests(is_full())?;
    if programs.iter().any(|program| program.name == apps::PROGRAM) {
        apps::prepare()?;
    }
    Ok(())
}

/// The durations of a run's parts.
#[derive(Debug, Default)]
struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.0.push((name, began.elapsed()));
        result
    }
}

impl std::fmt::Display for Phases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, took)| writeln!(f, "{:6.0} s  {name}", took.as_secs_f64()))
    }
}

/// Builds every test program, runs those that need no host, and returns the others.
fn run_here(args: &Args) -> Result<(Vec<Outcome>, Vec<Program>), Error> {
    let mut outcomes = Vec::new();
    let mut in_host = Vec::new();
    // The command with signing replaces the one without in the target folder, so it is built after
    // the tests of the latter.
    let mut rounds: Vec<&[&[&str]]> = vec![workspace::SELECTIONS];
    // It has no programs for a host, and its dependencies take minutes.
    if args.only.as_deref().is_none_or(|part| !part.starts_with(VM_PREFIX)) {
        rounds.push(&[workspace::SIGNING]);
    }
    for selections in rounds {
        for program in build(selections, args.only.as_deref())? {
            if program.needs_host {
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

fn build(selections: &[&[&str]], only: Option<&str>) -> Result<Vec<Program>, Error> {
    println!("building the tests");
    let mut programs = Vec::new();
    for packages in selections {
        programs.extend(build_selection(packages, only)?);
    }
    if selections == [workspace::SIGNING] {
        programs.retain(|program| program.package.ends_with(workspace::SIGNING_PACKAGE));
    }
    programs.retain(|p| only.is_none_or(|part| p.name.contains(part)));
    programs.sort_by(|a, b| {
        let rank = |program: &Program| program.name != LONGEST_PROGRAM;
        (rank(a), &a.name).cmp(&(rank(b), &b.name))
    });
    Ok(programs)
}

/// Builds the tests of some packages. The libraries' programs and examples come with them, because
/// tests of other packages start them: the worker, the shell. Built apart, they would get other
/// features of shared dependencies, which would be compiled twice.
fn build_selection(packages: &[&str], only: Option<&str>) -> Result<Vec<Program>, Error> {
    let mut cargo = workspace::cargo();
    let what: &[&str] = match packages == workspace::LIBRARIES {
        true => &["build", "--bins", "--examples"],
        false => &["test", "--no-run"],
    };
    cargo.args(what).args(["--profile", workspace::PROFILE]).args(packages);
    if packages == workspace::LIBRARIES {
        match only {
            Some(part) if part.starts_with(VM_PREFIX) => {
                cargo.arg("--test").arg(format!("{part}*"))
            }
            _ => cargo.arg("--tests"),
        };
    }
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = cargo.spawn().map_err(|e| command::start(&cargo, e))?;
    let output = child.stdout.take().map(BufReader::new);
    let lines = output.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    let programs: Vec<_> = lines.filter_map(|line| program(&line)).collect();
    let status = child.wait().map_err(Error::system("wait for cargo"))?;
    if status.success() {
        return Ok(programs);
    }
    let status = status.to_string();
    Err(Error::Command { command: format!("cargo {}", what.join(" ")), status })
}

/// The part of a cargo message that describes a test program.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
    profile: Profile,
    target: Target,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn program(line: &str) -> Option<Program> {
    let message: Message = serde_json::from_str(line).ok()?;
    if !message.profile.test {
        return None;
    }
    let is_integration = message.target.kind.iter().any(|kind| kind == "test");
    Some(Program {
        needs_host: is_integration && message.target.name.starts_with(VM_PREFIX),
        name: message.target.name,
        path: message.executable?,
        package: message.manifest_path.parent()?.to_path_buf(),
    })
}

impl Program {
    fn here(&self, args: &Args) -> Command {
        let mut command = self.prepared(Command::new(&self.path));
        command.args(long_tests()).args(&args.arguments);
        command
    }

    /// Runs it in a host; [`PROCESSORS_PROGRAM`] in one for each processor.
    fn run_in_host(&self, us: &Path, kind: Kind, args: &Args) -> Result<Vec<Outcome>, Error> {
        if self.name != PROCESSORS_PROGRAM {
            return Ok(vec![watch_in_host(&self.name, || {
                let mut command = self.in_host(us, kind, None, args);
                command.args(long_tests()).args(&args.arguments);
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

    /// The command that runs it in its own host, with the test registry serving.
    fn in_host(&self, us: &Path, kind: Kind, cpu: Option<&str>, args: &Args) -> Command {
        let mut command = Command::new(us);
        command.args(["host", "--host", kind.name(), "--timeout", &args.timeout.to_string()]);
        command.args(["--memory", &MEMORY_MIB.to_string()]);
        command.args(cpu.into_iter().flat_map(|cpu| ["--cpu", cpu]));
        command.arg("--").arg(us);
        command.args(["registry", "--"]).arg(&self.path);
        if kind != Kind::Native {
            command.env("TMPDIR", host::emulated::FAST_FOLDER);
        }
        self.prepared(command)
    }

    /// Sets folder and environment as cargo does for a test program.
    fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(&self.package).env(apps::VARIABLE, apps::target());
        command.env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

fn is_full() -> bool {
    std::env::var_os(FULL).is_some()
}

/// The argument that makes a test program run its long tests.
fn long_tests() -> Option<&'static str> {
    is_full().then_some("--include-ignored")
}

fn side_by_side(programs: &[Program], kind: Kind, args: &Args) -> Result<Vec<Outcome>, Error> {
    let us = workspace::this_program()?;
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

/// Runs a test program, shows each line under its name, and counts the results.
fn watch(name: &str, command: &mut Command) -> Result<Outcome, Error> {
    println!("[{name}] started");
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command::die_with_us(command);
    command::reset_signals(command);
    let mut child = command.spawn().map_err(|e| command::start(command, e))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (passed, failed) = thread::scope(|scope| {
        let errors = scope.spawn(|| show(name, stderr));
        let counts = show(name, stdout);
        let _ = errors.join();
        counts
    });
    let status = child.wait().map_err(Error::system("wait for a test program"))?;
    let took = began.elapsed();
    println!("[{name}] {status}, {:.1} s", took.as_secs_f64());
    Ok(Outcome {
        name: name.to_owned(),
        passed,
        failed,
        succeeded: status.success(),
        status: status.code(),
        took,
        was_repeated: false,
    })
}

fn show(name: &str, from: Option<impl Read>) -> (u64, u64) {
    let mut counts = (0, 0);
    for line in from.into_iter().flat_map(|f| BufReader::new(f).split(b'\n')).map_while(Result::ok)
    {
        let line = String::from_utf8_lossy(&line);
        println!("[{name}] {line}");
        if let Some((passed, failed)) = results(&line) {
            counts = (counts.0 + passed, counts.1 + failed);
        }
    }
    counts
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn results(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ").map(|part| part.split_once(' '));
    let mut next = |word: &str| {
        let (number, found) = counts.next()??;
        number.parse().ok().filter(|_| found == word)
    };
    Some((next("passed")?, next("failed")?))
}

/// Prints a line for each program and the sums, and returns the exit status.
fn summary(outcomes: &[Outcome]) -> u8 {
    println!();
    for outcome in outcomes {
        let Outcome { name, passed, failed, took, .. } = outcome;
        let verdict = if outcome.succeeded { "ok" } else { "FAILED" };
        let seconds = took.as_secs_f64();
        println!("{verdict:6} {name:28} {passed:4} passed {failed:3} failed {seconds:7.1} s");
    }
    // A program that died of a signal or a time-out counts as one failure.
    let bad = outcomes.iter().filter(|o| !o.succeeded).map(|o| o.failed.max(1)).sum::<u64>();
    let repeated = outcomes.iter().filter(|o| o.was_repeated).count();
    if repeated > 0 {
        println!(
            "{repeated} test programs ran again because the clock of their emulated host stopped"
        );
    }
    println!("{} passed, {bad} failed", outcomes.iter().map(|o| o.passed).sum::<u64>());
    u8::from(bad > 0)
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

    #[test]
    fn results_parses_only_the_summary_line() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(results(line), Some((12, 3)));
        assert_eq!(results("test tests::results ... ok"), None);
        assert_eq!(results("test result: ok."), None);
    }

    #[test]
    fn program_needs_a_host_if_its_name_says_so() {
        let message = |name: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml",
                "target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},
                "executable":"/t/{name}"}}"#
            )
        };
        assert!(program(&message("vm_bake", "test", true)).unwrap().needs_host);
        assert!(!program(&message("vm_bake", "lib", true)).unwrap().needs_host);
        assert!(!program(&message("pull", "test", true)).unwrap().needs_host);
        assert!(program(&message("vm_bake", "test", false)).is_none());
        assert!(program("Compiling").is_none());
    }
}
