//! Whether this host's KVM runs guest kernels at speed.
//!
//! That the device opens proves little: a nested or emulated KVM may interpret every instruction of
//! a guest's kernel. So the probe runs a few instructions in ring 0 and times them.

use std::time::Instant;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::backend::kvm::system::{call, open};
use crate::backend::{HypervisorError, Speed};

/// `mov ecx, N; l: dec ecx; jnz l; out 0x80, al` in real mode, at ring 0.
const PROGRAM: [u8; 13] =
    [0x66, 0xb9, 0xa0, 0x86, 0x01, 0x00, 0x66, 0x49, 0x75, 0xfc, 0xe6, 0x80, 0xf4];
const ITERATIONS: u32 = 100_000;
const MEMORY: usize = 4096;

/// Runs the loop and returns the time of an iteration.
pub(crate) fn probe() -> Result<Speed, HypervisorError> {
    let region = MmapRegion::<()>::new(MEMORY).map_err(|_| HypervisorError::Capability {
        capability: "a page of memory for the probe",
    })?;
    let kvm = open()?;
    let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    let program = region.as_volatile_slice();
    if program.write_slice(&PROGRAM, 0).is_err() {
        return Err(HypervisorError::Capability { capability: "writable memory for the probe" });
    }
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the memory must stay mapped while the guest can reach it: `region` outlives the
    // VM, which was made after it and so is closed before it is unmapped.
    unsafe { vm.set_user_memory_region(slot) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    let mut special = vcpu.get_sregs().map_err(call("KVM_GET_SREGS"))?;
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_sregs(&special).map_err(call("KVM_SET_SREGS"))?;
    let registers = kvm_regs { rip: 0, rflags: 2, ..Default::default() };
    vcpu.set_regs(&registers).map_err(call("KVM_SET_REGS"))?;
    let begin = Instant::now();
    match vcpu.run().map_err(call("KVM_RUN"))? {
        VcpuExit::IoOut(0x80, _) => {
            let picoseconds = begin.elapsed().as_nanos() * 1000 / u128::from(ITERATIONS);
            Ok(Speed { picoseconds_per_iteration: u64::try_from(picoseconds).unwrap_or(u64::MAX) })
        }
        _ => Err(HypervisorError::Capability { capability: "the means to run ring 0 code" }),
    }
}
