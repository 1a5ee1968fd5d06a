//! An image of synthetic packs, for tests.

use std::path::Path;

use supermachine_snapshots::pack::Source;
use supermachine_test_support::packs::{self as samples, Made};

use super::Image;

/// Makes a store with the sample packs in a folder, and opens its image with a cache beside it.
pub(crate) fn sample_image(dir: &Path) -> (Made, Image) {
    let made = samples::make(&dir.join("store"));
    let source = Source::open(&dir.join("store")).unwrap();
    let image = Image::open(source, made.image.digest, &dir.join("cache")).unwrap();
    (made, image)
}
