//! What a stack has done, counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a stack has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// Connections that are open, or on their way.
    pub connections: usize,
    /// Sockets of the host that were opened for the guest, name servers' included.
    pub sockets_opened: u64,
    /// Flows that were refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicUsize,
    sockets_opened: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub(super) fn opened(&self) {
        self.sockets_opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> StackStats {
        StackStats {
            connections: self.connections.load(Ordering::Relaxed),
            sockets_opened: self.sockets_opened.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
