//! Snapshots embedded in the program, and the macros that embed them.
//!
//! `supermachine_baker::build_script` sets a variable for each snapshot, with the path of its pack.
//! The macros read that variable, so they work in libraries and binaries, in any profile.

use std::fmt;

use crate::error::{HostError, SnapshotError};
use crate::{Error, Image, paths};
use supermachine_snapshots::pack::Source;

/// A snapshot embedded in the program's own file: see [`include_snapshot!`].
///
/// Its pages are read from there on demand. Its mapped form is in the user's cache, as that of any
/// other snapshot.
///
/// ```
/// use supermachine::{Error, Image, Snapshot};
///
/// // What `include_snapshot!("python")` is where the documentation of a program is built.
/// const PYTHON: Snapshot = Snapshot::new("python", &[]);
/// assert!(PYTHON.is_placeholder());
/// assert!(matches!(Image::from_embedded(PYTHON), Err(Error::Snapshot { .. })));
/// ```
///
/// [`include_snapshot!`]: crate::include_snapshot
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    name: &'static str,
    pack: &'static [u8],
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("name", &self.name).field("size", &self.size()).finish()
    }
}

impl Snapshot {
    /// A snapshot with the bytes of its pack, a file as `supermachine export` writes it.
    #[must_use]
    pub const fn new(name: &'static str, pack: &'static [u8]) -> Self {
        Self { name, pack }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The size of its pack, in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.pack.len()
    }

    /// Whether it was left out of the build: a documentation build, or one with
    /// `SUPERMACHINE_NO_BAKE`.
    #[must_use]
    pub const fn is_placeholder(&self) -> bool {
        self.pack.is_empty()
    }
}

impl Image {
    /// Opens an embedded snapshot.
    ///
    /// # Errors
    /// [`Error::Snapshot`] if it was left out of the build or is damaged; there is no cache folder.
    pub fn from_embedded(snapshot: Snapshot) -> Result<Self, Error> {
        let Snapshot { name, pack } = snapshot;
        if snapshot.is_placeholder() {
            return Err(Error::Snapshot {
                source: SnapshotError::Placeholder { name: name.to_owned() },
            });
        }
        let source = Source::embedded(name, pack)?;
        let digest = source.find(None)?;
        Self::open(
            source,
            digest,
            &paths::cache_dir().ok_or(Error::Host { source: HostError::NoCacheDir })?,
        )
    }
}

/// Embeds a snapshot in the program, as a [`Snapshot`] that [`Image::from_embedded`] opens.
///
/// The package's build script bakes a snapshot of this name. A pack of 40 MB adds 0.3 s and 190 MiB
/// to a compilation (rustc 1.95, 2 cores), in any profile.
///
/// ```ignore
/// use supermachine::{Image, include_snapshot};
///
/// let image = Image::from_embedded(include_snapshot!("python"))?;
/// ```
///
/// A name that the build script does not bake does not compile:
///
/// ```compile_fail
/// let snapshot = supermachine::include_snapshot!("no-such-snapshot");
/// ```
#[macro_export]
macro_rules! include_snapshot {
    ($name:literal) => {
        $crate::Snapshot::new($name, ::core::include_bytes!($crate::__snapshot_pack!($name)))
    };
}

/// The path of a snapshot's pack, for programs that ship it as a file: the file that
/// [`AssetPaths::discover`] finds, else the one from the build script. A
/// [`PathBuf`](std::path::PathBuf) for [`Image::from_snapshot`].
///
/// ```ignore
/// use supermachine::{Image, snapshot_path};
///
/// let image = Image::from_snapshot(snapshot_path!("python"))?;
/// ```
///
/// A name that the build script does not bake does not compile:
///
/// ```compile_fail
/// let path = supermachine::snapshot_path!("no-such-snapshot");
/// ```
///
/// [`AssetPaths::discover`]: crate::AssetPaths::discover
#[macro_export]
macro_rules! snapshot_path {
    ($name:literal) => {
        $crate::AssetPaths::discover().pack_or($name, $crate::__snapshot_pack!($name))
    };
}

/// The path of the pack from the build script.
#[doc(hidden)]
#[macro_export]
macro_rules! __snapshot_pack {
    ($name:literal) => {
        ::core::env!(
            ::core::concat!("SUPERMACHINE_SNAPSHOT_", $name),
            ::core::concat!(
                "this package's build script bakes no snapshot \"",
                $name,
                "\": let its build.rs call supermachine_baker::build_script(|b| { b.bake(",
                "OciImageBuilder::new(\"IMAGE\")?.name(\"",
                $name,
                "\"))?; Ok(()) }), or declare it in [package.metadata.supermachine]"
            )
        )
    };
}
