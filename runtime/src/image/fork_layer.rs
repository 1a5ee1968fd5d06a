//! What a fork's image adds to that of a stored snapshot.

use supermachine_vmm::{MemoryFiles, Overlay};

/// What a fork's image adds to that of a stored snapshot.
#[derive(Debug)]
pub(super) struct ForkLayer {
    /// The memory of the stored snapshot.
    pub(super) stored: MemoryFiles,
    /// All pages that were written since.
    pub(super) overlay: Overlay,
}
