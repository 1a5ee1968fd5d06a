//! Interrupt lines: how a device signals the guest.

use std::fmt::Debug;

/// One edge-triggered interrupt line, owned by one device.
pub(crate) trait Line: Debug + Send + Sync {
    /// Sends one edge. Edges that the guest has not seen yet may merge.
    fn raise(&self);
}
