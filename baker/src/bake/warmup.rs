//! Warm-ups, which run in a machine before the capture, and their identity in cache keys.
//!
//! Code has no digest. Its identity is the caller's tag, else the digest of the program that
//! contains it.

use std::env;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use supermachine::{ExitStatus, Vm};
use supermachine_formats::{Digest, Hasher};

use super::key::Key;
use crate::error::{BakeError, WorkloadError};

/// How many bytes of the program are read at a time.
const PIECE: usize = 1 << 20;
/// How many bytes of a failed command's output an error shows.
const MAX_OUTPUT: usize = 4 << 10;

type Failure = Box<dyn Error + Send + Sync>;
type Run = dyn Fn(&Vm) -> Result<(), Failure> + Send + Sync;

/// A warm-up.
#[derive(Clone)]
pub(crate) struct Warmup {
    run: Arc<Run>,
    /// The commands, if it consists of commands.
    commands: Option<Vec<Vec<String>>>,
}

impl fmt::Debug for Warmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warmup").field("commands", &self.commands).finish_non_exhaustive()
    }
}

/// A command of a warm-up failed.
#[derive(Debug, thiserror::Error)]
#[error("{} ended with {status}; it wrote: {output}", command.join(" "))]
struct CommandFailed {
    command: Vec<String>,
    status: ExitStatus,
    output: String,
}

impl Warmup {
    pub(crate) fn of(run: impl Fn(&Vm) -> Result<(), Failure> + Send + Sync + 'static) -> Self {
        Self { run: Arc::new(run), commands: None }
    }

    /// Runs commands in order; each must succeed.
    pub(crate) fn of_commands(commands: Vec<Vec<String>>) -> Self {
        let all = commands.clone();
        let run = move |vm: &Vm| all.iter().try_for_each(|command| run_command(vm, command));
        Self { run: Arc::new(run), commands: Some(commands) }
    }

    pub(crate) fn run(&self, vm: &Vm) -> Result<(), BakeError> {
        (self.run)(vm).map_err(|source| BakeError::Workload(WorkloadError::Warmup { source }))
    }

    /// The digest that stands for it. Commands identify themselves; a tag or a program identifies a
    /// warm-up only for the snapshot of one name.
    pub(crate) fn identity(&self, name: &str, tag: Option<&str>) -> Result<Digest, BakeError> {
        let mut key = Key::new();
        match (tag, &self.commands) {
            (Some(tag), _) => {
                key.add(b"tag");
                key.add(name.as_bytes());
                key.add(tag.as_bytes());
            }
            (None, Some(commands)) => {
                key.add(b"commands");
                commands.iter().for_each(|command| key.list(command));
            }
            (None, None) => {
                key.add(b"program");
                key.add(name.as_bytes());
                key.add(&this_program()?.0);
            }
        }
        Ok(key.finish())
    }
}

fn run_command(vm: &Vm, command: &[String]) -> Result<(), Failure> {
    let outcome = vm.exec(command)?;
    if outcome.success() {
        return Ok(());
    }
    let written = [outcome.stdout, outcome.stderr].concat();
    let shown = &written[written.len().saturating_sub(MAX_OUTPUT)..];
    let output = String::from_utf8_lossy(shown).trim().to_owned();
    Err(Box::new(CommandFailed { command: command.to_vec(), status: outcome.status, output }))
}

fn this_program() -> Result<Digest, BakeError> {
    let path = env::current_exe().map_err(BakeError::io("find", "this program"))?;
    let mut file = File::open(&path).map_err(BakeError::io("read", &path))?;
    let (mut hasher, mut piece) = (Hasher::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(BakeError::io("read", &path))? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn identity_is_the_tag_or_the_commands_or_the_program() {
        let code = || Warmup::of(|_| Ok(()));
        let commands = |commands: &[&[&str]]| {
            Warmup::of_commands(commands.iter().map(|command| words(command)).collect())
        };
        let identity = |warmup: &Warmup, tag| warmup.identity("app.web", tag).unwrap();
        assert_eq!(identity(&code(), Some("1")), identity(&code(), Some("1")));
        assert_ne!(identity(&code(), Some("1")), identity(&code(), Some("2")));
        assert_eq!(identity(&code(), None), identity(&code(), None));
        assert_ne!(identity(&code(), None), identity(&code(), Some("")));
        for tag in [Some("1"), None] {
            assert_ne!(identity(&code(), tag), code().identity("app.other", tag).unwrap());
        }
        let split = commands(&[&["a", "b"]]);
        assert_eq!(identity(&split, None), identity(&split.clone(), None));
        assert_ne!(identity(&split, None), identity(&commands(&[&["a"], &["b"]]), None));
        assert_ne!(identity(&split, None), identity(&commands(&[&["a b"]]), None));
        assert_eq!(identity(&split, None), split.identity("app.other", None).unwrap());
    }
}
