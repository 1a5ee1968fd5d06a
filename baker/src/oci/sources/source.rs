//! The interface of sources.

use supermachine_formats::Digest;

use crate::oci::error::{Document, Error};
use crate::oci::manifest::{Descriptor, Manifest};

/// The source of one image.
pub(crate) trait Source {
    /// Resolves the image's name.
    fn root(&mut self) -> Result<(Digest, Manifest), Error>;

    /// Copies a manifest or config into the cache.
    fn fetch_document(&mut self, wanted: &Descriptor, kind: Document) -> Result<(), Error>;

    /// Copies layers into the cache, unless they exist there.
    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error>;
}
