//! What a machine uses.

use std::time::Duration;

use supermachine_formats::wire::Reply;

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

impl VmStats {
    /// Those of a machine that answered how much memory it uses.
    pub(crate) fn of(vm: &Vm, answer: Reply) -> Result<Self, Error> {
        let Reply::Memory(memory) = answer else {
            return Err(Error::UnexpectedReply { request: "memory" });
        };
        let (cpu_time, exits) = vm.usage()?;
        Ok(Self {
            memory_total_kib: memory.total_kib,
            memory_used_kib: memory.total_kib.saturating_sub(memory.available_kib),
            cpu_time,
            exits,
        })
    }
}
