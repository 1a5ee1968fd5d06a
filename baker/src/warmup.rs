//! What is run in a machine before its snapshot is taken, and how that is told from another
//! bake's.
//!
//! Code has no digest of its own. A tag that its author changes with it stands for it; without
//! one, the program that it is part of does.

use std::env;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use supermachine::{ExitStatus, Vm};
use supermachine_formats::{Digest, Hasher};

use crate::BakeError;
use crate::key::Key;

/// How much of the program is read at a time.
const PIECE: usize = 1 << 20;
/// How much of what a failed command wrote is told.
const TOLD: usize = 4 << 10;

type Failure = Box<dyn Error + Send + Sync>;
type Run = dyn Fn(&Vm) -> Result<(), Failure> + Send + Sync;

/// A warm-up.
#[derive(Clone)]
pub(crate) struct Warmup {
    run: Arc<Run>,
    /// What it does, where that is known.
    commands: Option<Vec<Vec<String>>>,
}

impl fmt::Debug for Warmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warmup").field("commands", &self.commands).finish_non_exhaustive()
    }
}

/// A command of a warm-up that did not succeed.
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

    /// Runs commands, one after the other; each must succeed.
    pub(crate) fn of_commands(commands: Vec<Vec<String>>) -> Self {
        let all = commands.clone();
        let run = move |vm: &Vm| all.iter().try_for_each(|command| run_command(vm, command));
        Self { run: Arc::new(run), commands: Some(commands) }
    }

    pub(crate) fn run(&self, vm: &Vm) -> Result<(), BakeError> {
        (self.run)(vm).map_err(|source| BakeError::Warmup { source })
    }

    /// The digest of what it does, as far as that can be known. Commands tell it themselves; what a
    /// tag or a program stands for is only known for the snapshot of one name.
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
    let told = written.get(written.len().saturating_sub(TOLD)..).unwrap_or_default();
    let output = String::from_utf8_lossy(told).trim().to_owned();
    Err(Box::new(CommandFailed { command: command.to_vec(), status: outcome.status, output }))
}

fn this_program() -> Result<Digest, BakeError> {
    let path = env::current_exe().map_err(BakeError::io("find", "this program"))?;
    let mut file = File::open(&path).map_err(BakeError::io("read", &path))?;
    let (mut hasher, mut piece) = (Hasher::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(BakeError::io("read", &path))? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(piece.get(..count).unwrap_or_default()),
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
