//! Import: snapshots from an archive or another image layout.
//!
//! A snapshot gets a name only after all of it was checked.

use std::fs::File;
use std::path::Path;

use supermachine_formats::Digest;
use supermachine_snapshots::pack::{
    BlobFile, Descriptor, Manifest, Named, Pack, PackError, Source,
};

use super::archive::digest_of;
use super::handle::Store;
use crate::error::{BakeError, InputError};

/// How many bytes are copied at a time.
const PIECE: usize = 1 << 20;
/// The largest manifest or configuration that is read.
const MAX_DOCUMENT: u64 = 4 << 20;

/// An imported snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Its name in the store.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes copied.
    pub copied: u64,
    /// Bytes that the store had already.
    pub present: u64,
}

impl Store {
    /// Imports the snapshots of the archive or image layout at `path` under their names, or, if `name` is
    /// given, the one with that name or the only one.
    ///
    /// # Errors
    /// There is no snapshot, or one is damaged; those before it stay.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Imported>, BakeError> {
        let source = Source::open(path)?;
        let all = source.snapshots()?;
        let wanted: Vec<(Named, String)> = match name {
            Some(name) => {
                self.check_name(name)?;
                let is_named = |found: &&Named| found.name.as_deref() == Some(name);
                let found = match (all.iter().find(is_named), all.as_slice()) {
                    (Some(found), _) | (None, [found]) => found.clone(),
                    _ => return Err(choice(path, all.len())),
                };
                vec![(found, name.to_owned())]
            }
            None if all.is_empty() => return Err(choice(path, 0)),
            None => {
                all.into_iter().map(|named| self.own_name(named, path)).collect::<Result<_, _>>()?
            }
        };
        // Keeps the blobs from a sweep until they have names.
        let _hold = self.layout().hold()?;
        wanted.into_iter().map(|(named, name)| self.import_one(&source, &named, name)).collect()
    }

    fn own_name(&self, named: Named, path: &Path) -> Result<(Named, String), BakeError> {
        let Some(name) = named.name.clone() else {
            return Err(BakeError::Input(InputError::Nameless { path: path.to_owned() }));
        };
        self.check_name(&name)?;
        Ok((named, name))
    }

    fn import_one(
        &self,
        source: &Source,
        named: &Named,
        name: String,
    ) -> Result<Imported, BakeError> {
        let digest = named.descriptor.digest;
        let pack = Pack::open(source, digest).map_err(|error| match error {
            PackError::ArtifactType { found } => BakeError::Input(InputError::NotASnapshot {
                place: source.path().display().to_string(),
                found,
            }),
            error => error.into(),
        })?;
        source.read("config", &pack.manifest.config, MAX_DOCUMENT)?;
        let mut imported = Imported { name, digest, copied: 0, present: 0 };
        // Parents come before children.
        let manifest = ("manifest", named.descriptor);
        for (section, blob) in sections(&pack.manifest).into_iter().rev().chain([manifest]) {
            if self.is_whole(&blob)? {
                imported.present += blob.size;
            } else {
                self.copy(section, &source.blob(section, &blob)?, &blob)?;
                imported.copied += blob.size;
            }
        }
        self.set_name(&imported.name, digest)?;
        Ok(imported)
    }

    /// Copies a blob into the store and verifies it.
    fn copy(
        &self,
        section: &'static str,
        from: &BlobFile,
        blob: &Descriptor,
    ) -> Result<(), BakeError> {
        let mut writer = self.layout().writer()?;
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        while at < blob.size {
            let length = usize::try_from(blob.size - at).map_or(PIECE, |left| left.min(PIECE));
            let Some(piece) = piece.get_mut(..length) else { break };
            let read = from.read_exact_at(piece, at);
            read.map_err(BakeError::io("read", format!("blob {}", blob.digest)))?;
            writer.write(piece)?;
            at += length as u64;
        }
        Ok(writer.commit_as(section, blob)?)
    }

    /// Whether the store has a blob, undamaged.
    pub(super) fn is_whole(&self, blob: &Descriptor) -> Result<bool, BakeError> {
        if self.blob_size(blob.digest) != Some(blob.size) {
            return Ok(false);
        }
        let path = self.layout().blob_path(blob.digest);
        let found = File::open(&path).and_then(digest_of).map_err(BakeError::io("read", path))?;
        Ok(found == (blob.digest, blob.size))
    }
}

/// The blobs that a manifest lists, each with its name in errors.
pub(super) fn sections(manifest: &Manifest) -> Vec<(&'static str, Descriptor)> {
    let small = [("config", manifest.config), ("state", manifest.state), ("index", manifest.index)];
    let chunks = manifest.chunks.iter().map(|blob| ("chunks", *blob));
    small.into_iter().chain(chunks).collect()
}

fn choice(path: &Path, count: usize) -> BakeError {
    let path = path.to_owned();
    match count {
        0 => PackError::NotAPack { path, what: "it holds no snapshot" },
        count => PackError::Ambiguous { path, count },
    }
    .into()
}
