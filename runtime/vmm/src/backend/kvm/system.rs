//! The system-wide handle of KVM, and how its failures become errors.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kvm_ioctls::{Cap, Kvm};

use crate::backend::HypervisorError;
use crate::os::DeviceFile;

const PATH: &str = "/dev/kvm";
static DEVICE: DeviceFile = DeviceFile::read_write(PATH);
/// The descriptor of machines that exist.
static OPEN: Mutex<Weak<Kvm>> = Mutex::new(Weak::new());

/// The file that [`open`] opens.
pub(crate) fn device() -> Option<&'static DeviceFile> {
    Some(&DEVICE)
}

/// Opens it. All machines of this process share one descriptor.
pub(super) fn open() -> Result<Arc<Kvm>, HypervisorError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kvm) = open.upgrade() {
        return Ok(kvm);
    }
    let file = DEVICE.open().map_err(|source| {
        let path = PathBuf::from(PATH);
        match source.kind() {
            io::ErrorKind::PermissionDenied => HypervisorError::Permission { path, source },
            _ => HypervisorError::Missing { path, source },
        }
    })?;
    // SAFETY: nothing else owns the descriptor, which is that of KVM's device.
    let kvm = Arc::new(unsafe { Kvm::from_raw_fd(file.into_raw_fd()) });
    *open = Arc::downgrade(&kvm);
    Ok(kvm)
}

/// Names the first capability of `required` that is missing, after a set-up call failed. Checking only
/// then keeps the usual path fast.
pub(super) fn explain(
    kvm: &Kvm,
    required: &[(Cap, &'static str)],
    error: HypervisorError,
) -> HypervisorError {
    let lacking = required.iter().find(|(cap, _)| !kvm.check_extension(*cap));
    lacking.map_or(error, |(_, capability)| HypervisorError::Capability { capability })
}

/// Turns the errno of a named call into an error.
pub(super) fn call(name: &'static str) -> impl Fn(kvm_ioctls::Error) -> HypervisorError {
    move |errno| HypervisorError::Call {
        call: name,
        source: io::Error::from_raw_os_error(errno.errno()),
    }
}
