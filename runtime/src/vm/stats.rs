//! What a machine uses.

use std::time::Duration;

use supermachine_formats::wire::Reply;

use crate::Error;

/// What a machine uses. See [`Vm::stats`](crate::Vm::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmStats {
    /// The memory that the guest's kernel manages, in KiB.
    pub memory_total_kib: u64,
    /// The part of it that is in use, in KiB: all that programs could not get.
    pub memory_used_kib: u64,
    /// The processor time that the guest has used on this host.
    pub cpu_time: Duration,
    /// How often the processor has left the guest for this host.
    pub exits: u64,
}

impl VmStats {
    /// Combines the agent's reply with the processor time and exits that the host counted.
    pub(crate) fn new(reply: &Reply, (cpu_time, exits): (Duration, u64)) -> Result<Self, Error> {
        let Reply::Memory(memory) = reply else {
            return Err(Error::unexpected("memory"));
        };
        Ok(Self {
            memory_total_kib: memory.total_kib,
            memory_used_kib: memory.total_kib.saturating_sub(memory.available_kib),
            cpu_time,
            exits,
        })
    }
}
