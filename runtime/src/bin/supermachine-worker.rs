//! The program that holds one isolated machine for the app that starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: nothing has run before in this process.
    unsafe { supermachine::worker::main() }
}
