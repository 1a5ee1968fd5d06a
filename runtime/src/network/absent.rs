//! No machine has a network without the feature `net`.

use super::Plug;
use crate::{Error, VmConfig};

/// No network.
#[derive(Debug, Default)]
pub(crate) struct Attached {}

impl Attached {
    #[expect(clippy::unnecessary_wraps, reason = "with the feature, a start can fail")]
    pub(crate) fn start(_: &VmConfig) -> Result<(Self, Option<Plug>), Error> {
        Ok((Self {}, None))
    }

    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as above")]
    pub(crate) fn renew(&self) -> Result<Option<Plug>, Error> {
        Ok(None)
    }
}
