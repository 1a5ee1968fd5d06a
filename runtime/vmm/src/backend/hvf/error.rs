//! How the framework's failures become errors: the sources of [`HypervisorError::Call`].

use std::io;

use applevisor_sys::{hv_error_t, hv_return_t};

use crate::backend::HypervisorError;

/// The framework refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} ({code:#x})", name(*code))]
pub(crate) struct Failure {
    /// The framework's code, as in its header `hv_error.h`.
    pub(crate) code: u32,
}

/// A VM could not be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoVm {
    /// macOS lets only programs with an entitlement use the framework.
    #[error(
        "macOS denies it to programs without the entitlement com.apple.security.hypervisor; `supermachine codesign` adds it"
    )]
    Denied(#[source] Failure),
    /// A process has at most one VM.
    #[error("this process has a VM, and macOS allows one for each process")]
    InUse(#[source] Failure),
    /// The processor or an outer hypervisor offers no virtualization.
    #[error("this Mac offers no virtualization to programs")]
    Unsupported(#[source] Failure),
}

/// Guest memory does not lie on the boundaries of the host's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{size:#x} bytes at {host_address:#x} for the guest's {guest_address:#x} are no whole pages of {page:#x} bytes"
)]
pub(crate) struct Misaligned {
    /// Where the memory is in this process.
    pub(crate) host_address: u64,
    /// Where it is to be in the guest.
    pub(crate) guest_address: u64,
    /// Its size.
    pub(crate) size: u64,
    /// Bytes of a page.
    pub(crate) page: u64,
}

/// Turns the result of a named call into an error that keeps the framework's code.
pub(super) fn check(call: &'static str, result: hv_return_t) -> Result<(), HypervisorError> {
    match failure(result) {
        None => Ok(()),
        Some(failure) => Err(HypervisorError::Call { call, source: io::Error::other(failure) }),
    }
}

/// The same for `hv_vm_create`, some of whose failures have a cause that users can remove.
pub(super) fn check_creation(result: hv_return_t) -> Result<(), HypervisorError> {
    let Some(failure) = failure(result) else { return Ok(()) };
    let source = match failure.code {
        code if code == hv_error_t::HV_DENIED as u32 => io::Error::other(NoVm::Denied(failure)),
        code if code == hv_error_t::HV_BUSY as u32 => io::Error::other(NoVm::InUse(failure)),
        code if code == hv_error_t::HV_UNSUPPORTED as u32 => {
            io::Error::other(NoVm::Unsupported(failure))
        }
        _ => io::Error::other(failure),
    };
    Err(HypervisorError::Call { call: "hv_vm_create", source })
}

/// The failure that a result stands for; `None` for success.
pub(super) fn failure(result: hv_return_t) -> Option<Failure> {
    (result != hv_error_t::HV_SUCCESS as hv_return_t)
        .then_some(Failure { code: result.cast_unsigned() })
}

fn name(code: u32) -> &'static str {
    const NAMES: [(hv_error_t, &str); 9] = [
        (hv_error_t::HV_ERROR, "HV_ERROR"),
        (hv_error_t::HV_BUSY, "HV_BUSY"),
        (hv_error_t::HV_BAD_ARGUMENT, "HV_BAD_ARGUMENT"),
        (hv_error_t::HV_ILLEGAL_GUEST_STATE, "HV_ILLEGAL_GUEST_STATE"),
        (hv_error_t::HV_NO_RESOURCES, "HV_NO_RESOURCES"),
        (hv_error_t::HV_NO_DEVICE, "HV_NO_DEVICE"),
        (hv_error_t::HV_DENIED, "HV_DENIED"),
        (hv_error_t::HV_FAULT, "HV_FAULT"),
        (hv_error_t::HV_UNSUPPORTED, "HV_UNSUPPORTED"),
    ];
    let known = NAMES.iter().find(|(error, _)| *error as u32 == code);
    known.map_or("unknown code", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: hv_error_t) -> hv_return_t {
        (error as u32).cast_signed()
    }

    fn source(error: HypervisorError) -> io::Error {
        let HypervisorError::Call { source, .. } = error else { panic!("{error}") };
        source
    }

    #[test]
    fn every_code_is_kept_and_named() {
        check("hv_vcpu_run", code(hv_error_t::HV_SUCCESS)).unwrap();
        for (error, expected) in [
            (hv_error_t::HV_ERROR, "HV_ERROR (0xfae94001)"),
            (hv_error_t::HV_BUSY, "HV_BUSY (0xfae94002)"),
            (hv_error_t::HV_BAD_ARGUMENT, "HV_BAD_ARGUMENT (0xfae94003)"),
            (hv_error_t::HV_ILLEGAL_GUEST_STATE, "HV_ILLEGAL_GUEST_STATE (0xfae94004)"),
            (hv_error_t::HV_NO_RESOURCES, "HV_NO_RESOURCES (0xfae94005)"),
            (hv_error_t::HV_NO_DEVICE, "HV_NO_DEVICE (0xfae94006)"),
            (hv_error_t::HV_DENIED, "HV_DENIED (0xfae94007)"),
            (hv_error_t::HV_FAULT, "HV_FAULT (0xfae94008)"),
            (hv_error_t::HV_UNSUPPORTED, "HV_UNSUPPORTED (0xfae9400f)"),
        ] {
            let refused = check("hv_vcpu_run", code(error)).unwrap_err();
            assert_eq!(refused.to_string(), "hypervisor call hv_vcpu_run failed");
            let source = source(refused);
            assert_eq!(source.to_string(), expected);
            let kept = source.get_ref().unwrap().downcast_ref::<Failure>();
            assert_eq!(kept, Some(&Failure { code: error as u32 }));
        }
        assert_eq!(source(check("x", 7).unwrap_err()).to_string(), "unknown code (0x7)");
    }

    #[test]
    fn causes_that_users_can_remove_are_named() {
        check_creation(0).unwrap();
        for (error, expected) in [
            (hv_error_t::HV_DENIED, "entitlement"),
            (hv_error_t::HV_BUSY, "one for each process"),
            (hv_error_t::HV_UNSUPPORTED, "no virtualization"),
        ] {
            let source = source(check_creation(code(error)).unwrap_err());
            assert!(source.to_string().contains(expected), "{source}");
            let kept = source.get_ref().unwrap().source().unwrap().downcast_ref::<Failure>();
            assert_eq!(kept, Some(&Failure { code: error as u32 }));
        }
        let source = source(check_creation(code(hv_error_t::HV_NO_RESOURCES)).unwrap_err());
        assert_eq!(source.to_string(), "HV_NO_RESOURCES (0xfae94005)");
    }
}
