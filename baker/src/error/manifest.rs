//! Invalid declarations of snapshots in `Cargo.toml`.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why a package's declarations cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Box<toml::de::Error>,
    },
    /// The key is unknown.
    #[error("{}: {place} has an unknown key {key:?}{}", path.display(), hint(suggestion.as_ref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The table.
        place: String,
        /// The key.
        key: String,
        /// The most similar known key.
        suggestion: Option<&'static str>,
    },
    /// A required key is missing.
    #[error("{}: {place} has no {key:?}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The table.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// The value has the wrong type.
    #[error("{}: {key:?} of {place} is {found}, and must be {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The table.
        place: String,
        /// The key.
        key: String,
        /// The expected type.
        expected: &'static str,
        /// The value found.
        found: String,
    },
    /// The value is invalid.
    #[error("{}: {key:?} of {place} is invalid", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The table.
        place: String,
        /// The key.
        key: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Two snapshots have one name.
    #[error("{}: two snapshots are named {name:?}", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

fn hint(suggestion: Option<&&'static str>) -> String {
    suggestion.map_or_else(String::new, |key| format!("; did you mean {key:?}?"))
}
