//! What a pool reports of itself.

/// A pool's current state, and its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// Warm machines.
    pub idle: usize,
    /// Machines that callers have or are about to get.
    pub in_use: usize,
    /// Returned machines that are not reset yet.
    pub returning: usize,
    /// Machines that the pool's thread starts or resets.
    pub starting: usize,
    /// Callers that wait for a machine.
    pub waiting: usize,
    /// Machines started since the pool was built.
    pub created: u64,
    /// Resets.
    pub reset: u64,
    /// Machines that were stopped: failed, not resettable, or discarded.
    pub replaced: u64,
    /// Starts that failed.
    pub failures: u64,
}
