//! Whether this host runs guest kernels at speed.
//!
//! The framework may be an emulated one, so the probe runs a few instructions at the guest's highest
//! privilege level and times them.

use std::sync::Arc;
use std::time::Instant;

use applevisor_sys::hv_reg_t;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::cpu::Cpu;
use super::exception::RESET_PSTATE;
use super::exits::{Access, Event, decode};
use super::framework::PAGE;
use super::instance::Instance;
use crate::backend::{self, HypervisorError, Speed};

/// `mov w0, N; l: subs w0, w0, #1; b.ne l; str w0, [x1]`.
const PROGRAM: [u32; 5] = [0x5290_d400, 0x72a0_0020, 0x7100_0400, 0x54ff_ffe1, 0xb900_0020];
const ITERATIONS: u32 = 100_000;
/// Where the program is, and where there is nothing.
const START: u64 = 0x4000_0000;
const NOTHING: u64 = 0x1000_0000;

/// Runs the loop and returns the time of an iteration. The process has no other VM.
pub(crate) fn probe() -> Result<Speed, HypervisorError> {
    let instance = Instance::new()?;
    map_program(&instance)?;
    let mut cpu = Cpu::new()?;
    cpu.set_register(hv_reg_t::PC, START)?;
    cpu.set_register(hv_reg_t::CPSR, RESET_PSTATE)?;
    cpu.set_register(hv_reg_t::X1, NOTHING)?;
    let begin = Instant::now();
    let exit = cpu.run().map(|exit| decode(&exit));
    let elapsed = begin.elapsed();
    match exit {
        Ok(Event::Access(Access { address: NOTHING, is_write: true, .. })) => {
            let picoseconds = elapsed.as_nanos() * 1000 / u128::from(ITERATIONS);
            Ok(Speed { picoseconds_per_iteration: u64::try_from(picoseconds).unwrap_or(u64::MAX) })
        }
        _ => Err(HypervisorError::Capability { capability: "the means to run kernel code" }),
    }
}

/// Maps a page with the program.
fn map_program(instance: &Instance) -> Result<(), HypervisorError> {
    let page = PAGE as usize;
    // Twice as much holds a whole page wherever it lies.
    let region = MmapRegion::<()>::new(2 * page).map_err(|_| HypervisorError::Capability {
        capability: "a page of memory for the probe",
    })?;
    let offset = region.as_ptr().align_offset(page);
    let program: Vec<u8> = PROGRAM.iter().flat_map(|word| word.to_le_bytes()).collect();
    if region.as_volatile_slice().write_slice(&program, offset).is_err() {
        return Err(HypervisorError::Capability { capability: "writable memory for the probe" });
    }
    let access = backend::Access::ReadWrite;
    instance.map(START, Arc::new(region), (offset, page), access)
}

#[cfg(test)]
mod tests;
