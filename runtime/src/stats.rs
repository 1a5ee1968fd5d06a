//! What a machine uses.

use std::time::Duration;

use supermachine_formats::wire::{Reply, Request};

use crate::{Error, Vm};

/// What a machine uses. See [`Vm::stats`](crate::Vm::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// The memory that the guest's kernel manages, in KiB.
    pub memory_total_kib: u64,
    /// What of it is in use, in KiB: all but what programs could still get.
    pub memory_used_kib: u64,
    /// The processor time that the guest has used on this host.
    pub cpu_time: Duration,
    /// How often the processor has left the guest for this host.
    pub exits: u64,
}

pub(crate) fn stats(vm: &Vm) -> Result<VmStats, Error> {
    match vm.ask(&Request::Memory)?.only()? {
        Reply::Memory(memory) => Ok(VmStats {
            memory_total_kib: memory.total_kib,
            memory_used_kib: memory.total_kib.saturating_sub(memory.available_kib),
            cpu_time: vm.machine().cpu_time(),
            exits: vm.machine().exits(),
        }),
        _ => Err(Error::UnexpectedReply { request: "memory" }),
    }
}
