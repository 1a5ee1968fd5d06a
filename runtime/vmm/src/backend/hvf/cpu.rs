//! A vCPU of the framework: its calls, with their results checked.
//!
//! It belongs to the thread that created it: every call but [`exit`] fails on another one.

use std::ptr::{self, NonNull};

use applevisor_sys::{
    hv_reg_t, hv_return_t, hv_simd_fp_reg_t, hv_sys_reg_t, hv_vcpu_create, hv_vcpu_destroy,
    hv_vcpu_get_reg, hv_vcpu_get_simd_fp_reg, hv_vcpu_get_sys_reg, hv_vcpu_run, hv_vcpu_set_reg,
    hv_vcpu_set_simd_fp_reg, hv_vcpu_set_sys_reg, hv_vcpu_set_vtimer_mask,
    hv_vcpu_set_vtimer_offset, hv_vcpu_t, hv_vcpus_exit,
};

use super::error::{Failure, check, failure};
use crate::backend::HypervisorError;

/// The framework's name of a vCPU.
pub(super) type Id = hv_vcpu_t;

/// A value of 128 bits, as calls pass it: in a vector register.
#[cfg(target_arch = "aarch64")]
pub(super) type Vector = std::arch::aarch64::uint8x16_t;
#[cfg(target_arch = "x86_64")]
pub(super) type Vector = std::arch::x86_64::__m128i;

/// The real signature of `hv_vcpu_set_simd_fp_reg`. The one in `applevisor_sys` passes the value in
/// two general registers.
#[expect(improper_ctypes_definitions, reason = "C has the type, by the name of uint8x16_t")]
type SetSimd = unsafe extern "C" fn(Id, hv_simd_fp_reg_t, Vector) -> hv_return_t;

/// `hv_vcpu_exit_t`, with a reason that may be one that this program does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawExit {
    pub(super) reason: u32,
    pub(super) syndrome: u64,
    pub(super) virtual_address: u64,
    pub(super) physical_address: u64,
}

/// A vCPU. Dropping it destroys it.
#[derive(Debug)]
pub(super) struct Cpu {
    id: Id,
    /// Where the framework describes exits. The pointer also keeps the vCPU on its thread.
    exit: NonNull<RawExit>,
}

impl Cpu {
    /// Creates a vCPU of this process's VM.
    pub(super) fn new() -> Result<Self, HypervisorError> {
        let (mut id, mut exit) = (0, ptr::null());
        // SAFETY: both results have room, and a null configuration is the default one.
        let result = unsafe { hv_vcpu_create(&raw mut id, &raw mut exit, ptr::null_mut()) };
        check("hv_vcpu_create", result)?;
        let exit = NonNull::new(exit.cast_mut().cast())
            .ok_or(HypervisorError::Capability { capability: "a description of exits" })?;
        Ok(Self { id, exit })
    }

    pub(super) fn id(&self) -> Id {
        self.id
    }

    /// Runs the guest until it exits.
    pub(super) fn run(&mut self) -> Result<RawExit, Failure> {
        // SAFETY: the vCPU exists, and belongs to this thread because it is not `Send`.
        let result = unsafe { hv_vcpu_run(self.id) };
        match failure(result) {
            // SAFETY: the framework keeps the description at this address while the vCPU exists, and
            // writes it in `hv_vcpu_run` only. `RawExit` has its layout and no illegal values.
            None => Ok(unsafe { self.exit.read() }),
            Some(failure) => Err(failure),
        }
    }

    pub(super) fn register(&self, register: hv_reg_t) -> Result<u64, HypervisorError> {
        let mut value = 0;
        // SAFETY: the vCPU exists on this thread, and the result has room.
        let result = unsafe { hv_vcpu_get_reg(self.id, register, &raw mut value) };
        check("hv_vcpu_get_reg", result).map(|()| value)
    }

    pub(super) fn set_register(
        &self,
        register: hv_reg_t,
        value: u64,
    ) -> Result<(), HypervisorError> {
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { hv_vcpu_set_reg(self.id, register, value) };
        check("hv_vcpu_set_reg", result)
    }

    pub(super) fn system(&self, register: hv_sys_reg_t) -> Result<u64, HypervisorError> {
        let mut value = 0;
        // SAFETY: the vCPU exists on this thread, and the result has room.
        let result = unsafe { hv_vcpu_get_sys_reg(self.id, register, &raw mut value) };
        check("hv_vcpu_get_sys_reg", result).map(|()| value)
    }

    pub(super) fn set_system(
        &self,
        register: hv_sys_reg_t,
        value: u64,
    ) -> Result<(), HypervisorError> {
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { hv_vcpu_set_sys_reg(self.id, register, value) };
        check("hv_vcpu_set_sys_reg", result)
    }

    /// A SIMD register as its lower and upper half.
    pub(super) fn simd(&self, register: hv_simd_fp_reg_t) -> Result<[u64; 2], HypervisorError> {
        let mut value = 0_u128;
        // SAFETY: the vCPU exists on this thread, and the result has 16 aligned bytes of room.
        let result = unsafe { hv_vcpu_get_simd_fp_reg(self.id, register, &raw mut value) };
        check("hv_vcpu_get_simd_fp_reg", result)?;
        Ok([value as u64, (value >> 64) as u64])
    }

    pub(super) fn set_simd(
        &self,
        register: hv_simd_fp_reg_t,
        value: [u64; 2],
    ) -> Result<(), HypervisorError> {
        let declared: unsafe extern "C" fn(Id, hv_simd_fp_reg_t, u128) -> hv_return_t =
            hv_vcpu_set_simd_fp_reg;
        // SAFETY: a pointer to a function, of the function's signature in the framework's header.
        let set = unsafe { std::mem::transmute::<*const (), SetSimd>(declared as *const ()) };
        // SAFETY: both types have 16 bytes, and every value of them is legal.
        let value = unsafe { std::mem::transmute::<[u64; 2], Vector>(value) };
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { set(self.id, register, value) };
        check("hv_vcpu_set_simd_fp_reg", result)
    }

    /// Sets what the guest's counter is behind the host's.
    pub(super) fn set_counter_offset(&self, offset: u64) -> Result<(), HypervisorError> {
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { hv_vcpu_set_vtimer_offset(self.id, offset) };
        check("hv_vcpu_set_vtimer_offset", result)
    }

    /// Lets the virtual timer cause exits, or not.
    pub(super) fn mask_timer(&self, is_masked: bool) -> Result<(), HypervisorError> {
        // SAFETY: the vCPU exists on this thread.
        let result = unsafe { hv_vcpu_set_vtimer_mask(self.id, is_masked) };
        check("hv_vcpu_set_vtimer_mask", result)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // SAFETY: the vCPU exists, belongs to this thread, and nothing uses it any more.
        let _ = unsafe { hv_vcpu_destroy(self.id) };
    }
}

/// Makes a vCPU leave the guest, or not enter it the next time. For any thread.
///
/// # Safety
/// The vCPU exists.
pub(super) unsafe fn exit(id: Id) {
    // SAFETY: one vCPU is at the address, and it exists by this function's contract. The call fails
    // only for others.
    let _ = unsafe { hv_vcpus_exit(&raw const id, 1) };
}
