//! How a vCPU left the guest, as far as it is the same on every architecture.

use kvm_ioctls::{Error, VcpuExit};

use super::signal;
use super::system::call;
use crate::backend::{Exit, HypervisorError};

/// An exit that is no access to a port.
pub(super) fn exit(exit: VcpuExit<'_>) -> Exit<'_> {
    match exit {
        VcpuExit::MmioRead(address, data) => Exit::Read { address, data },
        VcpuExit::MmioWrite(address, data) => Exit::Write { address, data },
        VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => Exit::Shutdown,
        VcpuExit::InternalError => Exit::Failed { reason: "internal error", code: 0 },
        VcpuExit::FailEntry(code, _) => Exit::Failed { reason: "entry refused", code },
        VcpuExit::MemoryFault { gpa, .. } => Exit::Failed { reason: "memory fault", code: gpa },
        VcpuExit::Unsupported(code) => Exit::Failed { reason: "unknown exit", code: code.into() },
        _ => Exit::Failed { reason: "unexpected exit", code: 0 },
    }
}

/// What it means that `KVM_RUN` failed.
pub(super) fn refused(errno: Error) -> Result<Exit<'static>, HypervisorError> {
    match errno.errno() {
        libc::EINTR | libc::EAGAIN => {
            signal::drain();
            Ok(Exit::Kicked)
        }
        libc::EFAULT => {
            let reason = "the host cannot supply a page of its memory, as when a tmpfs is full";
            Ok(Exit::Failed { reason, code: 0 })
        }
        _ => Err(call("KVM_RUN")(errno)),
    }
}
