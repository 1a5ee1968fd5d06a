//! The application without its window: a library has its package's snapshots like a program.

use std::path::PathBuf;

use supermachine::{Error, Image, VmConfig, snapshot_path};

/// Where the snapshot is: beside the program, in `snapshots` there, in a bundle's
/// `Contents/Resources`, or in the folder that `SUPERMACHINE_SNAPSHOTS` names; and when none of
/// them has it, where the build script made it.
#[must_use]
pub fn snapshot() -> PathBuf {
    snapshot_path!("tools")
}

/// What a machine of the snapshot reports.
///
/// # Errors
/// The snapshot is missing or damaged, or the machine cannot be run.
pub fn report() -> Result<String, Error> {
    let vm = Image::from_snapshot(snapshot())?.start(&VmConfig::new())?;
    let outcome = vm.exec(["sh", "/opt/report.sh"])?;
    vm.stop()?;
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}
