//! Starts a command in a machine.

use std::ffi::OsString;
use std::io;

use supermachine::{ExecBuilder, ExecChild, Vm};
use supermachine_formats::wire::Operation;

use super::options::ProcessArgs;
use crate::error::{Error, GuestCommandError};
use crate::terminal;

/// The guest's error number for a missing file.
const ENOENT: u16 = 2;

/// Starts a command. Creates its working directory if that is missing, as Docker does.
pub(crate) fn start(vm: &Vm, argv: &[OsString], args: &ProcessArgs) -> Result<ExecChild, Error> {
    let command = builder(vm, argv, args)?;
    let started = match command.clone().spawn() {
        Err(supermachine::Error::Agent { failure })
            if failure.operation == Operation::Chdir && failure.errno == ENOENT =>
        {
            if let Some(dir) = &args.workdir {
                vm.copy_in(dir, empty_archive().as_slice())?;
            }
            command.spawn()
        }
        done => done,
    };
    let program = argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    started.map_err(|error| start_error(error, &program))
}

fn builder<'a>(
    vm: &'a Vm,
    argv: &[OsString],
    args: &ProcessArgs,
) -> Result<ExecBuilder<'a>, Error> {
    let mut command = vm.exec_builder().argv(argv);
    if args.tty {
        command = command.tty(true);
        if let Some((rows, columns)) = terminal::size() {
            command = command.winsize(rows, columns);
        }
        // The output appears on the terminal here.
        if let Some(kind) = std::env::var_os("TERM") {
            command = command.env("TERM", kind);
        }
    } else if !args.interactive {
        command = command.stdin_null();
    }
    for (name, value) in args.env.read()? {
        command = command.env(name, value);
    }
    if let Some(dir) = &args.workdir {
        command = command.cwd(dir);
    }
    if let Some(user) = &args.user {
        command = command.user(user);
    }
    for limit in &args.ulimit {
        command = command.ulimit(*limit);
    }
    if let Some(timeout) = args.timeout {
        command = command.timeout(timeout);
    }
    Ok(command)
}

/// A tar archive without entries: unpacking it only creates the target directory.
fn empty_archive() -> Vec<u8> {
    tar::Builder::new(Vec::new()).into_inner().unwrap_or_default()
}

/// Turns the agent's failure to start a command into the error that a shell would print.
fn start_error(error: supermachine::Error, program: &str) -> Error {
    let supermachine::Error::Agent { failure } = error else { return error.into() };
    let source = io::Error::from_raw_os_error(failure.errno.into());
    let (program, subject) = (program.to_owned(), failure.subject);
    let error = match (failure.operation, failure.errno) {
        (Operation::Execve, ENOENT) => GuestCommandError::NotFound { program },
        (Operation::Execve, _) => GuestCommandError::NotExecutable { program, source },
        (Operation::Chdir, _) => GuestCommandError::WorkingDirectory { path: subject, source },
        (Operation::FindUser, _) => GuestCommandError::NoUser { user: subject },
        (Operation::FindGroup, _) => GuestCommandError::NoGroup { user: subject },
        (operation, _) => GuestCommandError::Setup { operation, subject, source },
    };
    error.into()
}

#[cfg(test)]
mod tests {
    use supermachine_formats::wire::Failure;

    use super::*;

    #[test]
    fn failures_before_the_start_name_their_cure() {
        let message = |operation, subject: &str, errno| {
            let failure = Failure { operation, subject: subject.to_owned(), errno };
            start_error(supermachine::Error::Agent { failure }, "prog").to_string()
        };
        assert_eq!(message(Operation::Execve, "prog", 2), "prog: no such program in the machine");
        assert_eq!(
            message(Operation::Execve, "prog", 13),
            "prog: cannot be executed in the machine"
        );
        assert!(message(Operation::FindUser, "bob", 2).contains("/etc/passwd"));
        assert!(message(Operation::FindGroup, "bob:x", 2).contains("/etc/group"));
        assert!(message(Operation::Chdir, "/x", 20).contains("working directory /x"));
    }

    #[test]
    fn empty_archive_is_two_zero_blocks() {
        assert_eq!(empty_archive(), [0; 1024]);
    }
}
