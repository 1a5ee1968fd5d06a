//! Running a test program and counting its results.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command;
use crate::error::Error;

/// The result of one test program.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) succeeded: bool,
    pub(super) status: Option<i32>,
    pub(super) took: Duration,
    /// Whether it ran again because the host's clock stopped.
    pub(super) was_repeated: bool,
}

/// Runs a test program, shows each line under its name, and counts the results.
pub(super) fn watch(name: &str, command: &mut Command) -> Result<Outcome, Error> {
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
pub(super) fn summary(outcomes: &[Outcome]) -> u8 {
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

    #[test]
    fn results_parses_only_the_summary_line() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(results(line), Some((12, 3)));
        assert_eq!(results("test tests::results ... ok"), None);
        assert_eq!(results("test result: ok."), None);
    }
}
