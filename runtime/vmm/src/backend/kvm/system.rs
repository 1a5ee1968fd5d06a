//! The system-wide handle of KVM, and how its failures become errors.

use std::io;
use std::path::PathBuf;

use kvm_ioctls::{Cap, Kvm};

use crate::backend::HypervisorError;

const DEVICE: &str = "/dev/kvm";

/// Capabilities that every machine uses, with the names that errors print.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
];

/// Opens it.
pub(super) fn open() -> Result<Kvm, HypervisorError> {
    Kvm::new().map_err(|errno| {
        let path = PathBuf::from(DEVICE);
        let source = io::Error::from_raw_os_error(errno.errno());
        match source.kind() {
            io::ErrorKind::PermissionDenied => HypervisorError::Permission { path, source },
            _ => HypervisorError::Missing { path, source },
        }
    })
}

/// Names the capability that is missing after a set-up call failed. Checking only then keeps the
/// usual path fast.
pub(super) fn explain(kvm: &Kvm, error: HypervisorError) -> HypervisorError {
    let lacking = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap));
    lacking.map_or(error, |(_, capability)| HypervisorError::Capability { capability })
}

/// Turns the errno of a named call into an error.
pub(super) fn call(name: &'static str) -> impl Fn(kvm_ioctls::Error) -> HypervisorError {
    move |errno| HypervisorError::Call {
        call: name,
        source: io::Error::from_raw_os_error(errno.errno()),
    }
}
