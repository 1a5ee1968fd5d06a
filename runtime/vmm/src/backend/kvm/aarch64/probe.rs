//! Whether this host's KVM runs guest kernels at speed.
//!
//! That the device opens proves little: an emulated KVM may be slow. So the probe runs a few
//! instructions at the guest's highest privilege level and times them.

use std::time::Instant;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::processor::{create_vm, features};
use super::register::{self, PC, general};
use crate::backend::kvm::system::{call, open};
use crate::backend::{HypervisorError, Speed};

/// `mov w0, N; l: subs w0, w0, #1; b.ne l; str w0, [x1]`.
const PROGRAM: [u32; 5] = [0x5290_d400, 0x72a0_0020, 0x7100_0400, 0x54ff_ffe1, 0xb900_0020];
const ITERATIONS: u32 = 100_000;
/// The largest page of a host.
const MEMORY: usize = 0x1_0000;
/// Where the program is, and where there is nothing.
const START: u64 = 0x4000_0000;
const NOTHING: u64 = 0x1000_0000;

/// Runs the loop and returns the time of an iteration.
pub(crate) fn probe() -> Result<Speed, HypervisorError> {
    let region = MmapRegion::<()>::new(MEMORY).map_err(|_| HypervisorError::Capability {
        capability: "a page of memory for the probe",
    })?;
    let kvm = open()?;
    let vm = create_vm(&kvm)?;
    let program: Vec<u8> = PROGRAM.iter().flat_map(|word| word.to_le_bytes()).collect();
    if region.as_volatile_slice().write_slice(&program, 0).is_err() {
        return Err(HypervisorError::Capability { capability: "writable memory for the probe" });
    }
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: START,
        memory_size: MEMORY as u64,
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the memory must stay mapped while the guest can reach it: `region` outlives the
    // VM, which was made after it and so is closed before it is unmapped.
    unsafe { vm.set_user_memory_region(slot) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    vcpu.vcpu_init(&features(&vm, true)?).map_err(call("KVM_ARM_VCPU_INIT"))?;
    register::write(&vcpu, PC, &START.to_le_bytes())?;
    register::write(&vcpu, general(1), &NOTHING.to_le_bytes())?;
    let begin = Instant::now();
    match vcpu.run().map_err(call("KVM_RUN"))? {
        VcpuExit::MmioWrite(NOTHING, _) => {
            let picoseconds = begin.elapsed().as_nanos() * 1000 / u128::from(ITERATIONS);
            Ok(Speed { picoseconds_per_iteration: u64::try_from(picoseconds).unwrap_or(u64::MAX) })
        }
        _ => Err(HypervisorError::Capability { capability: "the means to run kernel code" }),
    }
}
