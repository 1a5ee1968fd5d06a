//! Without the feature `fs`, nothing of a machine outlives it.

use std::sync::Arc;

use crate::Error;
use crate::disks::Stored;
use crate::machine::MachineHandle;

/// The volumes of a machine that outlive it: none.
#[derive(Debug)]
pub(crate) struct Kept;

impl Kept {
    pub(crate) fn none() -> Self {
        Self
    }

    pub(crate) fn of(_: &[Stored], _: &Arc<dyn MachineHandle>) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "with the feature, it is used")]
    pub(crate) fn write_back(&self) -> impl FnOnce() -> Result<(), Error> + Send + 'static {
        || Ok(())
    }

    #[expect(clippy::unused_self, reason = "with the feature, it is used")]
    pub(crate) fn finish(&mut self) {}
}
