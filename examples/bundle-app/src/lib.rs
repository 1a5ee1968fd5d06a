//! The application's library: it finds the snapshots of its package as a program does.

use std::path::PathBuf;

use supermachine::{Error, Image, VmConfig, snapshot_path};

/// The path of the snapshot: beside the program, in `snapshots` there, in a bundle's
/// `Contents/Resources`, or in the folder that `SUPERMACHINE_SNAPSHOTS` names; failing those, in the
/// build script's output.
#[must_use]
pub fn snapshot() -> PathBuf {
    snapshot_path!("tools")
}

/// Starts a machine and returns its report.
///
/// # Errors
/// The snapshot is missing or damaged, or the machine fails.
pub fn report() -> Result<String, Error> {
    let vm = Image::from_snapshot(snapshot())?.start(&VmConfig::new())?;
    let outcome = vm.exec(["sh", "/opt/report.sh"])?;
    vm.stop()?;
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}
