//! Sources of packs: a folder, a file, or the program itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use supermachine_formats::Digest;

use super::archive::{self, Member};
use super::content::{Content, Embedded};
use super::manifest::{
    self, ARTIFACT, Descriptor, INDEX_JSON, MANIFEST, MAX_MANIFEST, Manifest, Named,
};
use crate::error::PackError;

/// The limit on `index.json`, in bytes.
pub(super) const MAX_INDEX_JSON: u64 = 16 << 20;

/// An image layout: a folder, or one file, which may be embedded in the program.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    /// The archive and its members; `None` for a folder.
    archive: Option<Arc<Archive>>,
}

/// An archive and the extents of its members.
type Archive = (Content, BTreeMap<String, Member>);

/// A blob's bytes.
#[derive(Debug, Clone)]
pub struct BlobFile {
    /// Their content.
    content: Content,
    /// Their offset in the content.
    pub offset: u64,
    /// Their number.
    pub size: u64,
    /// The blob's digest, unchecked.
    pub digest: Digest,
}

impl BlobFile {
    /// The bytes of a blob within a file: `size` bytes from `offset` on.
    #[must_use]
    pub fn new(file: File, offset: u64, size: u64, digest: Digest) -> Self {
        Self { content: file.into(), offset, size, digest }
    }

    /// The file that holds the bytes; `None` if the program itself does.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        match &self.content {
            Content::File(file) => Some(file),
            Content::Embedded(_) => None,
        }
    }

    /// Reads a part of the blob.
    ///
    /// # Errors
    /// The part exceeds the blob, or the file cannot be read.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = self.offset.checked_add(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.content.read_exact_at(buffer, at)
    }
}

impl Source {
    /// Opens the folder or file at `path`.
    ///
    /// # Errors
    /// It is missing, or not a pack.
    pub fn open(path: &Path) -> Result<Self, PackError> {
        let missing = |source| PackError::Missing { path: path.to_owned(), source };
        // Checked first, as opening a pipe would wait for its writer.
        let metadata = fs::metadata(path).map_err(missing)?;
        if !metadata.is_dir() && !metadata.is_file() {
            let what = "it is neither a file nor a folder";
            return Err(PackError::NotAPack { path: path.to_owned(), what });
        }
        let file = File::open(path).map_err(missing)?;
        let archive = if metadata.is_dir() {
            None
        } else {
            let content = Content::from(file);
            let members = archive::members(&content, path)?;
            Some(Arc::new((content, members)))
        };
        Ok(Self { path: path.to_owned(), archive })
    }

    /// Opens an archive that is embedded in the program; errors name it `embedded:NAME`.
    ///
    /// # Errors
    /// It is not an archive.
    pub fn embedded(name: &str, archive: &'static [u8]) -> Result<Self, PackError> {
        let path = PathBuf::from(format!("embedded:{name}"));
        let content = Content::Embedded(Embedded(archive));
        let members = archive::members(&content, &path)?;
        Ok(Self { path, archive: Some(Arc::new((content, members))) })
    }

    /// Whether it is embedded in this program.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.archive.as_ref().is_some_and(|archive| matches!(archive.0, Content::Embedded(_)))
    }

    /// The folder or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a folder, which is writable.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.archive.is_none()
    }

    /// The snapshots of this source, with their names.
    ///
    /// # Errors
    /// It is not an image layout, or its index is damaged.
    pub fn snapshots(&self) -> Result<Vec<Named>, PackError> {
        let text = self.index_json()?;
        let mut all = manifest::read_index(&text)?;
        all.retain(|named| named.artifact_type.as_deref().is_none_or(|found| found == ARTIFACT));
        Ok(all)
    }

    /// The manifest's digest of the snapshot with this name, or of the only snapshot.
    ///
    /// # Errors
    /// There is no such snapshot, or there are several and none was named.
    pub fn find(&self, name: Option<&str>) -> Result<Digest, PackError> {
        let all = self.snapshots()?;
        let path = self.path.clone();
        let found = match name {
            Some(name) => all
                .iter()
                .find(|named| named.name.as_deref() == Some(name))
                .ok_or_else(|| PackError::NoSuchName { name: name.to_owned(), path }),
            None => match all.as_slice() {
                [only] => Ok(only),
                [] => Err(PackError::NotAPack { path, what: "it holds no snapshot" }),
                several => Err(PackError::Ambiguous { path, count: several.len() }),
            },
        }?;
        // Its content is checked on reading.
        self.blob(MANIFEST, &found.descriptor)?;
        Ok(found.descriptor.digest)
    }

    /// Finds a blob and checks its size.
    ///
    /// # Errors
    /// It is missing or has another size.
    pub fn blob(
        &self,
        section: &'static str,
        descriptor: &Descriptor,
    ) -> Result<BlobFile, PackError> {
        let blob = self.find_blob(section, descriptor.digest)?;
        if blob.size != descriptor.size {
            let (expected, found) = (descriptor.size, blob.size);
            return Err(PackError::Size { section, digest: descriptor.digest, expected, found });
        }
        Ok(blob)
    }

    /// Reads a blob and checks its digest.
    ///
    /// # Errors
    /// It is missing, damaged, or larger than `limit`.
    pub fn read(
        &self,
        section: &'static str,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, PackError> {
        if descriptor.size > limit {
            return Err(PackError::TooLarge { section, size: descriptor.size, limit });
        }
        let blob = self.blob(section, descriptor)?;
        self.content(section, &blob)
    }

    /// Reads a blob of unknown size and checks its digest.
    ///
    /// # Errors
    /// It is missing, damaged, or larger than `limit`.
    pub fn read_unsized(
        &self,
        section: &'static str,
        digest: Digest,
        limit: u64,
    ) -> Result<Vec<u8>, PackError> {
        let blob = self.find_blob(section, digest)?;
        if blob.size > limit {
            return Err(PackError::TooLarge { section, size: blob.size, limit });
        }
        self.content(section, &blob)
    }

    fn content(&self, section: &'static str, blob: &BlobFile) -> Result<Vec<u8>, PackError> {
        let mut content = vec![0; usize::try_from(blob.size).unwrap_or(usize::MAX)];
        blob.read_exact_at(&mut content, 0).map_err(|source| self.io("read", source))?;
        let found = Digest::of(&content);
        if found != blob.digest {
            return Err(PackError::Damaged { section, digest: blob.digest, found });
        }
        Ok(content)
    }

    fn find_blob(&self, section: &'static str, digest: Digest) -> Result<BlobFile, PackError> {
        let missing = || PackError::MissingBlob { section, digest };
        let name = format!("blobs/sha256/{}", digest.hex());
        if let Some(archive) = &self.archive {
            let Member { offset, size } = *archive.1.get(&name).ok_or_else(missing)?;
            return Ok(BlobFile { content: archive.0.clone(), offset, size, digest });
        }
        let path = self.path.join(name);
        let open = || {
            let metadata = fs::metadata(&path)?;
            if !metadata.is_file() {
                return Err(io::Error::other("not a file"));
            }
            Ok((metadata.len(), File::open(&path)?))
        };
        match open() {
            Ok((size, file)) => Ok(BlobFile::new(file, 0, size, digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            Err(source) => Err(PackError::Io { operation: "open", path, source }),
        }
    }

    pub(super) fn index_json(&self) -> Result<Vec<u8>, PackError> {
        let not_a_pack = |what| PackError::NotAPack { path: self.path.clone(), what };
        let no_index = || not_a_pack("it has no index.json");
        let (content, Member { offset, size }) = match &self.archive {
            Some(archive) => (archive.0.clone(), *archive.1.get(INDEX_JSON).ok_or_else(no_index)?),
            None => {
                let open = File::open(self.path.join(INDEX_JSON));
                let file = open.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => no_index(),
                    _ => self.io("open the index.json of", error),
                })?;
                let size = file.metadata().map_err(|error| self.io("examine", error))?.len();
                (Content::from(file), Member { offset: 0, size })
            }
        };
        if size > MAX_INDEX_JSON {
            return Err(PackError::TooLarge { section: INDEX_JSON, size, limit: MAX_INDEX_JSON });
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        content.read_exact_at(&mut text, offset).map_err(|error| self.io("read", error))?;
        Ok(text)
    }

    fn io(&self, operation: &'static str, source: io::Error) -> PackError {
        PackError::Io { operation, path: self.path.clone(), source }
    }
}

impl Manifest {
    /// Reads the manifest with this digest.
    ///
    /// # Errors
    /// It is missing, damaged, or not that of a snapshot.
    pub fn read(source: &Source, digest: Digest) -> Result<Self, PackError> {
        Self::decode(&source.read_unsized(MANIFEST, digest, MAX_MANIFEST)?)
    }
}
