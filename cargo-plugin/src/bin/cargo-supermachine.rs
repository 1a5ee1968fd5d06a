//! The command `cargo supermachine`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cargo_supermachine::cargo_supermachine()
}
