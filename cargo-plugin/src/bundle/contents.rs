//! The contents of a bundle.

use std::path::PathBuf;

use super::settings::Settings;
use crate::package::Packs;

/// The contents of a bundle.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The settings of the package.
    pub(crate) settings: Settings,
    /// The package's version.
    pub(crate) version: String,
    /// The target triple.
    pub(crate) target: String,
    /// The program, and further programs beside it.
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) packs: Packs,
}
