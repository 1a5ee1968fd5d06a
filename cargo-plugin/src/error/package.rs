//! Errors of cargo packages and their bundles.

use std::path::PathBuf;

/// Why a package cannot be baked or bundled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// The build made several programs, or none.
    #[error(
        "a bundle has one program, and the build made {}; choose one with --bin or --example",
        if found.is_empty() { "none" } else { found }
    )]
    NotOneProgram { found: String },
    /// Cargo did not build the worker. It has printed why.
    #[error(
        "cargo did not build supermachine-worker, the program that holds isolated machines; \
         set `worker = false` in [package.metadata.supermachine.bundle] to leave it out"
    )]
    WorkerNotBuilt,
    /// The environment skips bakes, and this command needs the snapshot.
    #[error("SUPERMACHINE_NO_BAKE or DOCS_RS skips the snapshot {name:?}; unset it")]
    BakeSkipped { name: String },
    /// No build script and no manifest made a snapshot that the bundle lists.
    #[error(
        "the bundle lists the snapshot {name:?}, but no build script makes it and Cargo.toml \
         does not declare it"
    )]
    UnknownSnapshot { name: String },
    /// The table that describes a bundle is malformed.
    #[error("{}: cannot read [package.metadata.supermachine.bundle]", path.display())]
    BundleTable { path: PathBuf, source: Box<toml::de::Error> },
    /// The bundle's name cannot be a file name.
    #[error("{name:?} cannot be a bundle's name: it must be a file name without a leading dot")]
    BundleName { name: String },
    /// The output path holds something else.
    #[error(
        "{} is not a bundle of this program, so it was not replaced; \
         choose another place with --output or the bundle's `name`",
        path.display()
    )]
    NotABundle { path: PathBuf },
    /// Two files of a bundle have the same path.
    #[error("the bundle already has a file named like {}", path.display())]
    DuplicateFile { path: PathBuf },
    /// Two packages made different snapshots of one name.
    #[error(
        "two packages make a snapshot {name:?}: {} and {}; rename one of them",
        one.display(),
        other.display()
    )]
    DuplicateSnapshot { name: String, one: PathBuf, other: PathBuf },
    /// A property list cannot be read or written.
    #[error("cannot use the property list {}", path.display())]
    PropertyList { path: PathBuf, source: plist::Error },
    /// The image is not pinned.
    #[error("{image} is neither pinned in supermachine.lock nor declared in Cargo.toml")]
    NotPinned { image: String },
}
