//! The command `supermachine`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cargo_supermachine::supermachine()
}
