//! No machine has volumes without the feature `fs`.

use supermachine_formats::snapshot::Snapshot;

use super::Stored;
use crate::{Error, VmConfig};

#[expect(clippy::unnecessary_wraps, reason = "with the feature, a start can fail")]
pub(crate) fn start(_: &VmConfig, _: &Snapshot) -> Result<Vec<Stored>, Error> {
    Ok(Vec::new())
}

#[expect(clippy::unnecessary_wraps, reason = "with the feature, a pool can be refused")]
pub(crate) fn check_pool(_: &VmConfig) -> Result<(), Error> {
    Ok(())
}
