//! Snapshots that are part of the program, and the macros that put them there.
//!
//! A build script that uses `supermachine_baker::build_script` tells the compiler, in a variable
//! for each snapshot, where its pack is. The macros read that variable, so that they work in
//! libraries and binaries alike, in any profile.

use std::fmt;

use crate::{Error, Image, paths};
use supermachine_snapshots::pack::Source;

/// A snapshot in its portable form, in the program's own file: see [`include_snapshot!`].
///
/// Its pages are read from there when they are needed; unpacked for mapping, it lies in the
/// user's cache like any other.
///
/// ```
/// use supermachine::{Error, Image, Snapshot};
///
/// // What `include_snapshot!("python")` is where the documentation of a program is built.
/// const PYTHON: Snapshot = Snapshot::new("python", &[]);
/// assert!(PYTHON.is_placeholder());
/// assert!(matches!(Image::from_embedded(PYTHON), Err(Error::Placeholder { .. })));
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
    /// A snapshot whose pack, one file as `supermachine export` writes it, is in the program.
    #[must_use]
    pub const fn new(name: &'static str, pack: &'static [u8]) -> Self {
        Self { name, pack }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of its pack.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.pack.len()
    }

    /// Whether it was left out when the program was built: a build for documentation, or one
    /// that was told not to bake.
    #[must_use]
    pub const fn is_placeholder(&self) -> bool {
        self.pack.is_empty()
    }
}

impl Image {
    /// Opens a snapshot that is part of the program.
    ///
    /// # Errors
    /// [`Error::Placeholder`] if it was left out when the program was built; it is damaged, or
    /// there is no cache folder.
    pub fn from_embedded(snapshot: Snapshot) -> Result<Self, Error> {
        let Snapshot { name, pack } = snapshot;
        if snapshot.is_placeholder() {
            return Err(Error::Placeholder { name: name.to_owned() });
        }
        let source = Source::embedded(name, pack)?;
        let digest = source.find(None)?;
        Self::open(source, digest, &paths::cache_dir().ok_or(Error::NoCacheDir)?)
    }
}

/// Puts a snapshot into the program: a [`Snapshot`] that [`Image::from_embedded`] opens.
///
/// The name is one that the package's build script bakes. With a pack of 40 MB, compiling takes
/// 0.3 s and 190 MiB more (rustc 1.95, 2 cores), in any profile.
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

/// The path of a snapshot's pack, for programs that ship it as a file: that of the file which is
/// found as [`AssetPaths::discover`] does, else of the one that the build script made. A
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

/// The path of the pack that the build script made.
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
