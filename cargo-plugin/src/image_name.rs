//! Names of images on the command line.

use std::path::Path;

use supermachine_baker::oci::{self, BlobStore, FetchOptions, ImageSource};
use supermachine_baker::{BakeError, Store};

use crate::error::Error;
use crate::store;

/// The image that a user means by `text`. Asks registries, and opens the store, only if several of them
/// may have it.
pub(crate) fn locate(
    text: &str,
    options: &FetchOptions,
    dir: Option<&Path>,
) -> Result<ImageSource, Error> {
    let mut all = oci::candidates(text, options).map_err(BakeError::from)?;
    match all.pop() {
        Some(only) if all.is_empty() => Ok(only),
        _ => locate_with(text, options, &store::open(dir)?),
    }
}

/// The same with an open store.
pub(crate) fn locate_with(
    text: &str,
    options: &FetchOptions,
    store: &Store,
) -> Result<ImageSource, Error> {
    let located = BlobStore::open(store.cache().join("downloads"))
        .and_then(|blobs| oci::locate(text, &blobs, options));
    Ok(located.map_err(BakeError::from)?)
}
