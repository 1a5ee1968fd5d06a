//! Importing: the snapshots of an archive or of another image layout, whoever wrote it.
//!
//! Nothing gets a name here before all of it was checked.

use std::fs::File;
use std::path::Path;

use supermachine_formats::Digest;
use supermachine_snapshots::pack::{
    BlobFile, Descriptor, Manifest, Named, Pack, PackError, Source,
};

use super::Store;
use super::archive::digest_of;
use crate::BakeError;

/// How much is copied at a time.
const PIECE: usize = 1 << 20;
/// The largest manifest or configuration that is read.
const MAX_DOCUMENT: u64 = 4 << 20;

/// A snapshot that came into a store from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Its name in the store.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes that were copied.
    pub copied: u64,
    /// Bytes that were in the store already.
    pub present: u64,
}

impl Store {
    /// Takes snapshots out of the archive or image layout at `path`: all of them under the
    /// names that they have there, or one under `name`, which is the one of this name or the
    /// only one.
    ///
    /// # Errors
    /// There is no snapshot, or one is damaged; what came before it stays.
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
        // Until they have their names, blobs must not be swept away.
        let _hold = self.layout().hold()?;
        wanted.into_iter().map(|(named, name)| self.import_one(&source, &named, name)).collect()
    }

    fn own_name(&self, named: Named, path: &Path) -> Result<(Named, String), BakeError> {
        let Some(name) = named.name.clone() else {
            return Err(BakeError::Nameless { path: path.to_owned() });
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
            PackError::ArtifactType { found } => {
                BakeError::NotASnapshot { place: source.path().display().to_string(), found }
            }
            error => error.into(),
        })?;
        source.read("config", &pack.manifest.config, MAX_DOCUMENT)?;
        let mut imported = Imported { name, digest, copied: 0, present: 0 };
        // What others need comes before what needs it.
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

    /// Copies a blob into the store, if it is what it should be.
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

    /// Whether a blob is in the store, every byte of it. One that is damaged is not.
    pub(super) fn is_whole(&self, blob: &Descriptor) -> Result<bool, BakeError> {
        if self.blob_size(blob.digest) != Some(blob.size) {
            return Ok(false);
        }
        let path = self.layout().blob_path(blob.digest);
        let found = File::open(&path).and_then(digest_of).map_err(BakeError::io("read", path))?;
        Ok(found == (blob.digest, blob.size))
    }
}

/// The blobs that a manifest lists, each with the name that errors have for it.
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
