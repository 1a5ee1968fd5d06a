//! Runs many untrusted snippets side by side, each in a machine that nobody used before.
//!
//! ```text
//! eval_pool STORE NAME SCRIPT…
//! ```
//!
//! Five machines serve all scripts. Each goes back to its snapshot when a script has ended, so
//! that the next finds nothing of it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use supermachine::{Error, ExecOutcome, Image, Pool};

const MACHINES: usize = 5;
const THREADS: usize = 8;
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(name)) = (words.next(), words.next()) else {
        return fail("usage: eval_pool STORE NAME SCRIPT…");
    };
    let scripts: Vec<OsString> = words.collect();
    let image = Image::from_store(store, &name.to_string_lossy());
    match image.and_then(|image| run(&image, &scripts)) {
        Ok(results) => show(&scripts, &results).unwrap_or_else(|error| fail(&error.to_string())),
        Err(error) => fail(&error.to_string()),
    }
}

/// The result of each script, in order.
pub(crate) type Results = Vec<Option<Result<ExecOutcome, Error>>>;

pub(crate) fn run(image: &Image, scripts: &[OsString]) -> Result<Results, Error> {
    let pool = image.pool().min(1).max(MACHINES).build()?;
    let mut results: Results = scripts.iter().map(|_| None).collect();
    let tasks = Mutex::new(scripts.iter().zip(&mut results));
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(scripts.len()) {
            scope.spawn(|| {
                loop {
                    // The lock is held only to take the next task.
                    let next = tasks.lock().ok().and_then(|mut tasks| tasks.next());
                    let Some((script, result)) = next else { break };
                    *result = Some(evaluate(&pool, script));
                }
            });
        }
    });
    Ok(results)
}

fn evaluate(pool: &Pool, script: &OsStr) -> Result<ExecOutcome, Error> {
    let vm = pool.acquire()?;
    vm.exec_builder().argv([OsStr::new("sh"), OsStr::new("-c"), script]).timeout(LIMIT).output()
}

fn show(scripts: &[OsString], results: &Results) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut status = ExitCode::SUCCESS;
    for (script, result) in scripts.iter().zip(results) {
        write!(out, "{}: ", script.to_string_lossy())?;
        match result {
            Some(Ok(outcome)) => {
                writeln!(out, "{}", outcome.status)?;
                out.write_all(&outcome.stdout)?;
            }
            Some(Err(error)) => {
                writeln!(out, "{error}")?;
                status = ExitCode::FAILURE;
            }
            None => writeln!(out, "not run")?,
        }
    }
    Ok(status)
}

fn fail(reason: &str) -> ExitCode {
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "eval_pool: {reason}");
    ExitCode::FAILURE
}
