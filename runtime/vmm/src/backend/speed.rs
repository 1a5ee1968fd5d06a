//! How fast a hypervisor runs a guest's kernel.

/// How fast a guest's kernel runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speed {
    /// Picoseconds that two simple instructions take at the guest's highest privilege level.
    pub picoseconds_per_iteration: u64,
}

impl Speed {
    /// Hardware needs under 3,000; at this an instruction is interpreted.
    const SLOW: u64 = 200_000;

    /// Whether guest kernels run at or near the processor's own speed.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self.picoseconds_per_iteration < Self::SLOW
    }
}
