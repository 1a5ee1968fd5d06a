//! A writable image-layout folder.
//!
//! `blobs/sha256/` holds the blobs, each named by its digest; `index.json` names manifests; `tmp/`
//! holds incomplete files, each locked by its writer; `locks/` orders writers. Any number of
//! processes may use the folder. A file appears complete or not at all, and a name only after all
//! that it refers to.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use supermachine_formats::Digest;

use super::blobs::{BlobDir, BlobWriter};
use super::manifest::{ARTIFACT, Descriptor, INDEX_JSON, MANIFEST_TYPE, NAME_ANNOTATION, Named};
use super::source::{MAX_INDEX_JSON, Source};
use crate::error::PackError;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY: &[u8] =
    br#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#;
const MAX_NAME: usize = 128;
/// A folder of packs.
#[derive(Debug, Clone)]
pub struct Layout {
    blobs: BlobDir,
}

impl Layout {
    /// Opens the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PackError> {
        let layout = Self { blobs: BlobDir::open(dir)? };
        let locks = layout.dir().join("locks");
        fs::create_dir_all(&locks).map_err(io("create", &locks))?;
        if !layout.dir().join("index.json").is_file() {
            let _turn = layout.lock("index")?;
            for (name, content) in [("oci-layout", LAYOUT), ("index.json", EMPTY)] {
                if !layout.dir().join(name).is_file() {
                    layout.replace(name, content)?;
                }
            }
        }
        Ok(layout)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.blobs.dir()
    }

    /// The folder as a source.
    ///
    /// # Errors
    /// It is gone.
    pub fn source(&self) -> Result<Source, PackError> {
        Source::open(self.dir())
    }

    /// The path of a blob, whether it exists or not.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs.path(digest)
    }

    /// Starts a blob.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn writer(&self) -> Result<BlobWriter, PackError> {
        self.blobs.writer()
    }

    /// Writes a whole blob, unless it exists.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Descriptor, PackError> {
        self.blobs.put(content)
    }

    /// Protects unnamed blobs from sweeps until the result is dropped.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn hold(&self) -> Result<SweepGuard, PackError> {
        let path = self.dir().join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock_shared().map_err(io("lock", &path))?;
        Ok(SweepGuard { _file: file })
    }

    /// Waits for all holders of unnamed blobs, and excludes new ones until the result is dropped.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn hold_alone(&self) -> Result<SweepGuard, PackError> {
        let path = self.dir().join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(SweepGuard { _file: file })
    }

    /// Like [`Layout::hold_alone`] without the wait. `None`: another process holds blobs.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn try_hold_alone(&self) -> Result<Option<SweepGuard>, PackError> {
        let path = self.dir().join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(SweepGuard { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(io("lock", &path)(source)),
        }
    }

    /// Names a manifest, and removes the name from any other.
    ///
    /// # Errors
    /// The index is damaged or cannot be written.
    pub fn set_name(&self, name: &str, manifest: Descriptor) -> Result<(), PackError> {
        let Descriptor { digest, size } = manifest;
        self.change_index(|entries| {
            entries.retain(|entry| name_of(entry) != Some(name));
            entries.push(json!({
                "annotations": { NAME_ANNOTATION: name },
                "artifactType": ARTIFACT,
                "digest": digest.to_string(),
                "mediaType": MANIFEST_TYPE,
                "size": size,
            }));
            true
        })
        .map(drop)
    }

    /// Removes a name, and returns whether it existed. Blobs stay.
    ///
    /// # Errors
    /// The index is damaged or cannot be written.
    pub fn remove_name(&self, name: &str) -> Result<bool, PackError> {
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| name_of(entry) != Some(name));
            entries.len() != before
        })
    }

    /// The snapshots in the index, with or without a name.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn snapshots(&self) -> Result<Vec<Named>, PackError> {
        self.source()?.snapshots()
    }

    /// Takes the exclusive lock of this name until the result is dropped.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn lock(&self, name: &str) -> Result<File, PackError> {
        let path = self.dir().join("locks").join(name);
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(file)
    }

    /// Writes a small file of the folder atomically.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), PackError> {
        self.blobs.replace(name, content)
    }

    /// Changes the index, if `change` returns that it must be written.
    fn change_index(
        &self,
        change: impl FnOnce(&mut Vec<Value>) -> bool,
    ) -> Result<bool, PackError> {
        let _turn = self.lock("index")?;
        let text = self.source()?.index_json()?;
        let section = INDEX_JSON;
        let mut index: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|source| PackError::Json { section, source })?;
        let Some(Value::Array(entries)) = index.get_mut("manifests") else {
            return Err(PackError::Document { section, what: "no list of manifests" });
        };
        let changed = change(entries);
        if changed {
            let text = Value::Object(index).to_string();
            let (size, limit) = (text.len() as u64, MAX_INDEX_JSON);
            if size > limit {
                return Err(PackError::TooLarge { section, size, limit });
            }
            self.replace(section, text.as_bytes())?;
        }
        Ok(changed)
    }
}

/// Protects blobs from sweeps.
#[derive(Debug)]
pub struct SweepGuard {
    _file: File,
}

/// Whether a snapshot can have this name: up to 128 letters, digits, `.`, `_` and `-`, the
/// first a letter or digit.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_legal = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    starts_well && name.len() <= MAX_NAME && name.chars().all(is_legal)
}

/// Why [`is_name`] refuses a name. `what` says what it was meant for.
///
/// ```
/// use supermachine_snapshots::pack::refused_name;
///
/// let said = refused_name(&"n".repeat(129), "snapshot");
/// assert!(said.ends_with("is not a snapshot name: it has 129 characters, more than the 128 allowed"));
/// ```
#[must_use]
pub fn refused_name(name: &str, what: &str) -> String {
    let start: String = name.chars().take(MAX_NAME / 4).collect();
    let rest = if start.len() < name.len() { "…" } else { "" };
    let rule = match name.chars().count() {
        length if length > MAX_NAME => {
            format!("it has {length} characters, more than the {MAX_NAME} allowed")
        }
        _ => format!(
            "use up to {MAX_NAME} letters, digits, '.', '_' and '-', the first a letter or digit"
        ),
    };
    format!("{start:?}{rest} is not a {what} name: {rule}")
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(NAME_ANNOTATION)?.as_str()
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError + use<> {
    let path = path.to_owned();
    move |source| PackError::Io { operation, path, source }
}
