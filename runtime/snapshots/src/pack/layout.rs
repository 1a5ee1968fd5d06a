//! A writable image-layout folder.
//!
//! `blobs/sha256/` holds the blobs, each named by its digest; `index.json` names manifests; `tmp/`
//! holds incomplete files, each locked by its writer; `locks/` orders writers. Any number of
//! processes may use the folder. A file appears complete or not at all, and a name only after all
//! that it refers to.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use supermachine_formats::{Digest, Hasher};

use super::manifest::{ARTIFACT, Descriptor, INDEX_JSON, MANIFEST_TYPE, NAME_ANNOTATION, Named};
use super::source::{MAX_INDEX_JSON, Source};
use crate::error::PackError;
use crate::stamp::{TEMPORARY, temporary_beside};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY: &[u8] =
    br#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#;
const MAX_NAME: usize = 128;
/// The age at which an unlocked temporary file is a leftover: its owner locks it right after its
/// creation.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// A folder of packs.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PackError> {
        let layout = Self { dir: dir.into() };
        for folder in ["blobs/sha256", "tmp", "locks"] {
            let path = layout.dir.join(folder);
            fs::create_dir_all(&path).map_err(io("create", &path))?;
        }
        remove_leftovers(&layout.dir.join("tmp"), TEMPORARY);
        if !layout.dir.join("index.json").is_file() {
            let _turn = layout.lock("index")?;
            for (name, content) in [("oci-layout", LAYOUT), ("index.json", EMPTY)] {
                if !layout.dir.join(name).is_file() {
                    layout.replace(name, content)?;
                }
            }
        }
        Ok(layout)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder as a source.
    ///
    /// # Errors
    /// It is gone.
    pub fn source(&self) -> Result<Source, PackError> {
        Source::open(&self.dir)
    }

    /// The path of a blob, whether it exists or not.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Starts a blob.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn writer(&self) -> Result<BlobWriter, PackError> {
        Ok(BlobWriter {
            file: self.temporary("blob")?,
            hasher: Hasher::new(),
            size: 0,
            layout: self.clone(),
        })
    }

    /// Writes a whole blob, unless it exists.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Descriptor, PackError> {
        let descriptor = Descriptor { digest: Digest::of(content), size: content.len() as u64 };
        let path = self.blob_path(descriptor.digest);
        // A damaged blob is replaced.
        let is_as_large = fs::metadata(&path).is_ok_and(|found| found.len() == descriptor.size);
        if is_as_large && fs::read(&path).is_ok_and(|found| found == content) {
            return Ok(descriptor);
        }
        let mut writer = self.writer()?;
        writer.write(content)?;
        writer.commit()
    }

    /// Protects unnamed blobs from sweeps until the result is dropped.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn hold(&self) -> Result<Hold, PackError> {
        let path = self.dir.join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock_shared().map_err(io("lock", &path))?;
        Ok(Hold { _file: file })
    }

    /// Waits for all holders of unnamed blobs, and excludes new ones until the result is dropped.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn hold_alone(&self) -> Result<Hold, PackError> {
        let path = self.dir.join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(Hold { _file: file })
    }

    /// Like [`Layout::hold_alone`] without the wait. `None`: another process holds blobs.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn try_hold_alone(&self) -> Result<Option<Hold>, PackError> {
        let path = self.dir.join("locks/sweep");
        let file = File::create(&path).map_err(io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Hold { _file: file })),
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
        let path = self.dir.join("locks").join(name);
        let file = File::create(&path).map_err(io("create", &path))?;
        file.lock().map_err(io("lock", &path))?;
        Ok(file)
    }

    /// Writes a small file of the folder atomically.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<(), PackError> {
        let path = self.dir.join(name);
        let mut file = self.temporary("file")?;
        file.file.write_all(content).map_err(io("write", &path))?;
        file.persist(&path)
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

    fn temporary(&self, kind: &str) -> Result<Temporary, PackError> {
        let wanted = self.dir.join("tmp").join(kind);
        let path = temporary_beside(&wanted).map_err(io("name a file beside", &wanted))?;
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(io("create", &path))?;
        let temporary = Temporary { file, path: Some(path) };
        temporary.file.lock().map_err(io("lock", &wanted))?;
        Ok(temporary)
    }
}

/// Removes old, unlocked files with this suffix from a folder of temporary files: killed processes
/// left them. Errors are ignored, as a failed clean-up must not block any work.
pub fn remove_leftovers(dir: &Path, ending: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_meant = path.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes());
        let Ok(file) = File::open(&path) else { continue };
        let age = file.metadata().and_then(|metadata| metadata.modified()).map(|t| t.elapsed());
        let is_old = matches!(age, Ok(Ok(age)) if age >= LEFTOVER_AGE);
        if is_meant && is_old && file.try_lock().is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Protects blobs from sweeps.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

/// An incomplete blob. Dropping it without a commit removes it.
#[derive(Debug)]
pub struct BlobWriter {
    file: Temporary,
    hasher: Hasher,
    size: u64,
    layout: Layout,
}

impl BlobWriter {
    /// Appends `content`.
    ///
    /// # Errors
    /// It cannot be written, for example when the disk is full.
    pub fn write(&mut self, content: &[u8]) -> Result<(), PackError> {
        let tmp = self.layout.dir.join("tmp");
        self.file.file.write_all(content).map_err(io("write a file in", &tmp))?;
        self.hasher.update(content);
        self.size += content.len() as u64;
        Ok(())
    }

    /// Commits the written bytes as a blob, with any digest.
    ///
    /// # Errors
    /// It cannot be written; the file is removed.
    pub fn commit(self) -> Result<Descriptor, PackError> {
        let digest = self.hasher.finish();
        self.file.persist(&self.layout.blob_path(digest))?;
        Ok(Descriptor { digest, size: self.size })
    }

    /// Commits the written bytes as a blob with this digest and size.
    ///
    /// # Errors
    /// Digest or size differ, or it cannot be written; the file is removed.
    pub fn commit_as(self, section: &'static str, told: &Descriptor) -> Result<(), PackError> {
        let Descriptor { digest, size: expected } = *told;
        if self.size != expected {
            return Err(PackError::Size { section, digest, expected, found: self.size });
        }
        let found = self.hasher.clone().finish();
        if found != digest {
            return Err(PackError::Damaged { section, digest, found });
        }
        self.commit().map(drop)
    }
}

/// A file that is removed unless it is renamed.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    /// Renames the file so that it is complete even after a crash.
    fn persist(mut self, to: &Path) -> Result<(), PackError> {
        self.file.sync_all().map_err(io("write", to))?;
        if let Some(from) = &self.path {
            fs::rename(from, to).map_err(io("create", to))?;
        }
        self.path = None;
        let Some(folder) = to.parent() else { return Ok(()) };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("write", folder))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A leftover is removed later.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether this is a valid snapshot name: up to 128 letters, digits, `.`, `_` and `-`, the first a
/// letter or digit.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let is_legal = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    starts_well && name.len() <= MAX_NAME && name.chars().all(is_legal)
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(NAME_ANNOTATION)?.as_str()
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError + use<> {
    let path = path.to_owned();
    move |source| PackError::Io { operation, path, source }
}
