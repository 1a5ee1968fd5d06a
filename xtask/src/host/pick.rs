//! Picking the host: this machine if its hypervisor serves, else the emulated one.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::Kind;
use crate::error::Error;

/// The host that fits this machine.
pub(crate) fn pick() -> Kind {
    if has_virtualization() { Kind::Native } else { Kind::Emulated }
}

/// Whether /dev/kvm is there and the processor tells of its own virtualization.
/// A /dev/kvm without it runs guest kernels through an instruction emulator.
fn has_virtualization() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    fs::metadata("/dev/kvm").is_ok() && flags.split_whitespace().any(|f| f == "vmx" || f == "svm")
}

/// Fails when the host cannot serve, rather than let its tests pass by being skipped.
/// An emulated one runs on any machine.
pub(crate) fn require(kind: Kind) -> Result<(), Error> {
    let device = Path::new("/dev/kvm");
    if kind == Kind::Native {
        let opened = OpenOptions::new().read(true).write(true).open(device);
        opened.map_err(Error::file("open", device))?;
    }
    Ok(())
}
