//! No machine has folders of the host without the feature `fs`.

use supermachine_formats::snapshot::Snapshot;

use super::Shared;
use crate::{Error, VmConfig};

#[expect(clippy::unnecessary_wraps, reason = "with the feature, a start can fail")]
pub(crate) fn start(_: &VmConfig, _: &Snapshot) -> Result<Vec<Shared>, Error> {
    Ok(Vec::new())
}
