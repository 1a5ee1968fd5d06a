//! `supermachine.lock`: the digest of each image's tag, so that builds today and in a year bake the
//! same image.
//!
//! The file is next to `Cargo.toml`; commit it. The first build with a tag pins it;
//! `cargo supermachine update` updates the pins. Images named by a digest, and images in folders and
//! archives, need none.
//!
//! ```toml
//! version = 1
//!
//! [[image]]
//! reference = "docker.io/library/redis:7"
//! digest = "sha256:…"
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use supermachine_formats::Digest;

use crate::error::LOCK_VERSION as VERSION;
pub use crate::error::LockError;

/// The file's name.
pub const LOCK_FILE: &str = "supermachine.lock";
const HEAD: &str = "\
# Written by supermachine: which image each tag stood for when it was first built with.
# Commit it. `cargo supermachine update` moves the tags.
";

/// A lock file's content.
///
/// ```
/// use supermachine_baker::lock::Lock;
/// use supermachine_formats::Digest;
///
/// let dir = tempfile::tempdir()?;
/// let mut lock = Lock::beside(dir.path())?;
/// assert_eq!(lock.digest("docker.io/library/redis:7"), None);
/// lock.pin("docker.io/library/redis:7", Digest::of(b"manifest"));
/// lock.save()?;
/// let again = Lock::beside(dir.path())?;
/// assert_eq!(again.digest("docker.io/library/redis:7"), Some(Digest::of(b"manifest")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    path: PathBuf,
    images: BTreeMap<String, Digest>,
    /// Whether it differs from the file.
    is_changed: bool,
    /// Whether it must not change.
    is_frozen: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    #[serde(default)]
    image: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    reference: String,
    digest: String,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
}

impl Lock {
    /// Reads the lock file in the package folder `dir`. A missing file pins nothing.
    ///
    /// # Errors
    /// Those of [`Lock::open`].
    pub fn beside(dir: &Path) -> Result<Self, LockError> {
        Self::open(dir.join(LOCK_FILE))
    }

    /// Sets whether builds must use the existing pins and add none.
    #[must_use]
    pub fn frozen(mut self, is_frozen: bool) -> Self {
        self.is_frozen = is_frozen;
        self
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Reads the lock file at `path`. A missing file pins nothing.
    ///
    /// # Errors
    /// It cannot be read, is malformed, or has another version.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LockError> {
        let path = path.into();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let images = BTreeMap::new();
                return Ok(Self { path, images, is_changed: false, is_frozen: false });
            }
            Err(source) => return Err(LockError::Io { operation: "read", path, source }),
        };
        let images = parse(&path, &text)?;
        Ok(Self { path, images, is_changed: false, is_frozen: false })
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pinned digest of an image, named in full.
    #[must_use]
    pub fn digest(&self, reference: &str) -> Option<Digest> {
        self.images.get(reference).copied()
    }

    /// The pinned images, sorted by name.
    pub fn images(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.images.iter().map(|(reference, digest)| (reference.as_str(), *digest))
    }

    /// Pins an image. Returns its previous pin.
    pub fn pin(&mut self, reference: &str, digest: Digest) -> Option<Digest> {
        let before = self.images.insert(reference.to_owned(), digest);
        self.is_changed |= before != Some(digest);
        before
    }

    /// Removes the images that `is_wanted` rejects.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&str) -> bool) {
        let before = self.images.len();
        self.images.retain(|reference, _| is_wanted(reference));
        self.is_changed |= self.images.len() != before;
    }

    /// Whether there are unsaved changes.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Writes the file if it changed. Readers see the old or the new content.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&mut self) -> Result<(), LockError> {
        if !self.is_changed {
            return Ok(());
        }
        let failed = |source| LockError::Io { operation: "write", path: self.path.clone(), source };
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new()
            .prefix(".supermachine-lock-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)
            .map_err(failed)?;
        file.write_all(self.text().as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        self.is_changed = false;
        Ok(())
    }

    /// The content of the file.
    fn text(&self) -> String {
        let mut text = format!("{HEAD}version = {VERSION}\n");
        for (reference, digest) in &self.images {
            let reference = toml::Value::String(reference.clone());
            // Writing to a string cannot fail.
            let _ = write!(text, "\n[[image]]\nreference = {reference}\ndigest = \"{digest}\"\n");
        }
        text
    }
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, Digest>, LockError> {
    let form = |source| LockError::Form { path: path.to_owned(), source: Box::new(source) };
    // Check the version first: others may have other keys.
    let Head { version: found } = toml::from_str(text).map_err(form)?;
    if found != VERSION {
        return Err(LockError::Version { path: path.to_owned(), found });
    }
    let document: Document = toml::from_str(text).map_err(form)?;
    debug_assert_eq!(document.version, VERSION);
    let mut images = BTreeMap::new();
    for Entry { reference, digest } in document.image {
        let path = path.to_owned();
        let Ok(known) = digest.parse() else {
            return Err(LockError::Digest { path, reference, digest });
        };
        if images.insert(reference.clone(), known).is_some() {
            return Err(LockError::Twice { path, reference });
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIS: &str = "docker.io/library/redis:7";

    fn lock_of(text: &str) -> Result<Lock, LockError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), text).unwrap();
        Lock::beside(dir.path())
    }

    #[test]
    fn pins_survive_the_file_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::beside(dir.path()).unwrap();
        assert_eq!(lock.pin(REDIS, Digest::of(b"1")), None);
        assert_eq!(lock.pin("a/\"b\":1", Digest::of(b"2")), None);
        lock.save().unwrap();
        let again = Lock::beside(dir.path()).unwrap();
        let pins: Vec<_> = again.images().collect();
        assert_eq!(pins, [("a/\"b\":1", Digest::of(b"2")), (REDIS, Digest::of(b"1"))]);
        assert_eq!(again, lock);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn save_without_a_change_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = Lock::beside(dir.path()).unwrap();
        lock.save().unwrap();
        assert!(!lock.path().exists());
        lock.pin(REDIS, Digest::of(b"1"));
        lock.save().unwrap();
        fs::write(lock.path(), "mine").unwrap();
        assert_eq!(lock.pin(REDIS, Digest::of(b"1")), Some(Digest::of(b"1")));
        lock.save().unwrap();
        assert_eq!(fs::read_to_string(lock.path()).unwrap(), "mine");
        assert_eq!(lock.pin(REDIS, Digest::of(b"2")), Some(Digest::of(b"1")));
        lock.save().unwrap();
        assert!(fs::read_to_string(lock.path()).unwrap().contains(REDIS));
    }

    #[test]
    fn rejected_images_are_removed() {
        let mut lock = lock_of("version = 1\n").unwrap();
        lock.pin(REDIS, Digest::of(b"1"));
        lock.pin("b", Digest::of(b"2"));
        lock.retain(|reference| reference == "b");
        assert_eq!(lock.images().collect::<Vec<_>>(), [("b", Digest::of(b"2"))]);
        assert!(lock.is_changed());
    }

    #[test]
    fn files_of_another_form_are_refused() {
        let twice = format!("[[image]]\nreference = \"a\"\ndigest = \"{}\"\n", Digest::of(b""));
        assert!(matches!(
            lock_of("version = 2\nnews = 1"),
            Err(LockError::Version { found: 2, .. })
        ));
        assert!(matches!(lock_of("version = 1\nnews = 1"), Err(LockError::Form { .. })));
        assert!(matches!(lock_of("<<<<<<< HEAD\n"), Err(LockError::Form { .. })));
        assert!(matches!(lock_of(""), Err(LockError::Form { .. })));
        let wrong = "version = 1\n[[image]]\nreference = \"a\"\ndigest = \"sha256:1\"\n";
        assert!(matches!(lock_of(wrong), Err(LockError::Digest { .. })));
        let twice = format!("version = 1\n{twice}{twice}");
        assert!(matches!(lock_of(&twice), Err(LockError::Twice { .. })));
    }
}
