//! Bakes the snapshots that `Cargo.toml` declares.

use std::process::ExitCode;

fn main() -> ExitCode {
    supermachine_baker::build_script_from_metadata()
}
