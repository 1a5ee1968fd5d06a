//! An application whose snapshot ships as a file: beside the program, in `snapshots` there, in a
//! bundle's `Contents/Resources`, or in the folder that `SUPERMACHINE_SNAPSHOTS` names. When it
//! is run from where it was built, it finds the one that its build script made.

use std::error::Error;

use supermachine::{Image, VmConfig, snapshot_path};

fn main() -> Result<(), Box<dyn Error>> {
    let path = snapshot_path!("tools");
    eprintln!("snapshot: {}", path.display());
    let vm = Image::from_snapshot(path)?.start(&VmConfig::new())?;
    let outcome = vm.exec(["sh", "/opt/report.sh"])?;
    print!("{}", String::from_utf8_lossy(&outcome.stdout));
    vm.stop()?;
    Ok(())
}
