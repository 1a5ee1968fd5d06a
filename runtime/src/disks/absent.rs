//! No machine has volumes without the feature `fs`.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;

use super::Stored;
use crate::machine::MachineHandle;
use crate::{Error, VmConfig};

/// The volumes of a machine that outlive it: none.
#[derive(Debug, Default)]
pub(crate) struct Kept;

impl Kept {
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

#[expect(clippy::unnecessary_wraps, reason = "with the feature, a start can fail")]
pub(crate) fn start(_: &VmConfig, _: &Snapshot) -> Result<Vec<Stored>, Error> {
    Ok(Vec::new())
}

#[expect(clippy::unnecessary_wraps, reason = "with the feature, a pool can be refused")]
pub(crate) fn check_pool(_: &VmConfig) -> Result<(), Error> {
    Ok(())
}
