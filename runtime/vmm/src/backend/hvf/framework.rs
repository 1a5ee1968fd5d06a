//! The functions of Hypervisor.framework that were added after macOS 11, looked up by name when a
//! VM is created, so that programs start on every macOS. Also its objects, and the host's clock.

use std::ffi::c_void;
use std::ptr::NonNull;

use applevisor_sys::{hv_ipa_t, hv_return_t, hv_vcpu_t, os_release};

#[cfg(test)]
use super::stand_in::symbol;

#[cfg(test)]
pub(super) use super::stand_in::host_counter;

/// Bytes of a page of the host, and of what the framework maps.
pub(super) const PAGE: u64 = applevisor_sys::PAGE_SIZE as u64;

/// The host's counter, from which a guest's counter differs by its offset.
#[cfg(not(test))]
pub(super) fn host_counter() -> u64 {
    // The C library of macOS has it.
    unsafe extern "C" {
        fn mach_absolute_time() -> u64;
    }
    // SAFETY: the function has no preconditions.
    unsafe { mach_absolute_time() }
}

/// An object of the framework, which releases it when dropped.
#[derive(Debug)]
pub(super) struct Object(NonNull<c_void>);

impl Object {
    /// Takes the object that a function created; `None` if it created none.
    ///
    /// # Safety
    /// `object` is null, or an object that the framework returned and that nothing else releases.
    pub(super) unsafe fn take(object: *mut c_void) -> Option<Self> {
        NonNull::new(object).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: this owns one reference to the object, by the contract of `take`.
        unsafe { os_release(self.0.as_ptr()) };
    }
}

/// The address of a function of this process.
#[cfg(not(test))]
fn symbol(name: &std::ffi::CStr) -> Option<NonNull<c_void>> {
    // SAFETY: `dlsym` reads a string that ends with a zero byte, as `name` does.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Declares functions that are looked up together: a macOS has all of them or none.
macro_rules! functions {
    (
        $(#[$doc:meta])*
        struct $set:ident {
            $($field:ident: $symbol:literal fn($($argument:ty),*) -> $result:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $set {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $set {
            /// Looks them up; `None` if this macOS lacks one.
            pub(super) fn find() -> Option<Self> {
                Some(Self {
                    $($field: {
                        let address = symbol($symbol)?;
                        // SAFETY: the symbol is the framework's function of that name, which has
                        // this signature in its header.
                        unsafe {
                            std::mem::transmute::<
                                NonNull<c_void>,
                                unsafe extern "C" fn($($argument),*) -> $result,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    /// The size of a guest's address space, which can be set since macOS 13.
    struct AddressSpace {
        max_size: c"hv_vm_config_get_max_ipa_size" fn(*mut u32) -> hv_return_t,
        set_size: c"hv_vm_config_set_ipa_size" fn(*mut c_void, u32) -> hv_return_t,
    }
}

functions! {
    /// The interrupt controller, which macOS has since version 15.
    struct GicFunctions {
        config_create: c"hv_gic_config_create" fn() -> *mut c_void,
        set_distributor_base:
            c"hv_gic_config_set_distributor_base" fn(*mut c_void, hv_ipa_t) -> hv_return_t,
        set_redistributor_base:
            c"hv_gic_config_set_redistributor_base" fn(*mut c_void, hv_ipa_t) -> hv_return_t,
        create: c"hv_gic_create" fn(*mut c_void) -> hv_return_t,
        reset: c"hv_gic_reset" fn() -> hv_return_t,
        set_spi: c"hv_gic_set_spi" fn(u32, bool) -> hv_return_t,
        distributor_size: c"hv_gic_get_distributor_size" fn(*mut usize) -> hv_return_t,
        distributor_alignment:
            c"hv_gic_get_distributor_base_alignment" fn(*mut usize) -> hv_return_t,
        redistributor_size: c"hv_gic_get_redistributor_size" fn(*mut usize) -> hv_return_t,
        redistributor_alignment:
            c"hv_gic_get_redistributor_base_alignment" fn(*mut usize) -> hv_return_t,
        redistributor_base:
            c"hv_gic_get_redistributor_base" fn(hv_vcpu_t, *mut hv_ipa_t) -> hv_return_t,
        spi_range: c"hv_gic_get_spi_interrupt_range" fn(*mut u32, *mut u32) -> hv_return_t,
        set_redistributor_reg:
            c"hv_gic_set_redistributor_reg" fn(hv_vcpu_t, u32, u64) -> hv_return_t,
        get_icc_reg: c"hv_gic_get_icc_reg" fn(hv_vcpu_t, u16, *mut u64) -> hv_return_t,
        set_icc_reg: c"hv_gic_set_icc_reg" fn(hv_vcpu_t, u16, u64) -> hv_return_t,
        state_create: c"hv_gic_state_create" fn() -> *mut c_void,
        state_size: c"hv_gic_state_get_size" fn(*mut c_void, *mut usize) -> hv_return_t,
        state_data: c"hv_gic_state_get_data" fn(*mut c_void, *mut c_void) -> hv_return_t,
        set_state: c"hv_gic_set_state" fn(*const c_void, usize) -> hv_return_t,
    }
}
