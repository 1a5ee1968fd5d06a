//! Runs scripts side by side in one machine, on one thread, and shows each as it ends.
//!
//! ```text
//! async STORE NAME SCRIPT…
//! ```

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use supermachine::{Error, ExecOutcome, Image, VmConfig, async_};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(name)) = (words.next(), words.next()) else {
        return fail("usage: async STORE NAME SCRIPT…");
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let image = Image::from_store(store, &name.to_string_lossy());
    let work = async { run(&image?, words.collect(), show).await };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// Runs the scripts; `tell` gets each with its outcome.
pub(crate) async fn run(
    image: &Image,
    scripts: Vec<OsString>,
    mut tell: impl FnMut(&OsStr, Result<ExecOutcome, Error>),
) -> Result<(), Error> {
    let vm = Arc::new(async_::Vm::start(image, &VmConfig::new()).await?);
    let mut tasks = JoinSet::new();
    for script in scripts {
        let vm = Arc::clone(&vm);
        tasks.spawn(async move {
            let argv = [OsStr::new("sh"), OsStr::new("-c"), &script];
            let outcome = vm.exec_builder().argv(argv).timeout(LIMIT).output().await;
            (script, outcome)
        });
    }
    while let Some(done) = tasks.join_next().await {
        // A task that panicked has said so.
        if let Ok((script, outcome)) = done {
            tell(&script, outcome);
        }
    }
    match Arc::into_inner(vm) {
        Some(vm) => vm.stop().await,
        None => Ok(()),
    }
}

fn show(script: &OsStr, outcome: Result<ExecOutcome, Error>) {
    let script = script.to_string_lossy();
    let text = match outcome {
        Ok(outcome) => {
            format!("{script}: {}\n{}", outcome.status, String::from_utf8_lossy(&outcome.stdout))
        }
        Err(error) => format!("{script}: {error}\n"),
    };
    // Where standard output is closed there is nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
}

fn fail(reason: &str) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "async: {reason}");
    ExitCode::FAILURE
}
