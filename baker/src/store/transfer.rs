//! Push to registries, and pull from them.
//!
//! A registry holds the same artifact as the store, blob for blob. Only missing blobs are sent.

use supermachine_formats::Digest;
use supermachine_formats::pack::{MAX_INDEX_SIZE, MAX_STATE_SIZE};
use supermachine_snapshots::pack::{MANIFEST_TYPE, Manifest, Pack, PackError};

use super::handle::Store;
use super::import::sections;
use crate::error::{BakeError, InputError, StoreError};
use crate::oci::{
    Access, BlobStore, BlobToUpload, Descriptor, Error, Event, FetchOptions, MAX_DOCUMENT,
    MissingBlob, Reference, RegistryClient, on_own_thread,
};

/// A pushed or pulled snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// Its name in the store.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes sent or received.
    pub moved: u64,
    /// Bytes that the other side had already.
    pub present: u64,
}

impl Store {
    /// Pushes a snapshot to a registry, under the reference's tag.
    ///
    /// # Errors
    /// There is no snapshot with this name, it is damaged, or the registry refuses it.
    pub fn push(
        &self,
        name: &str,
        reference: &Reference,
        options: &FetchOptions,
    ) -> Result<Transferred, BakeError> {
        let failed = |source| BakeError::Store(StoreError::Push { source });
        if options.offline {
            return Err(failed(offline(reference)));
        }
        let _hold = self.layout().hold()?;
        let digest = self.digest(name)?;
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(failed(Error::DigestMismatch { digest: wanted, found: digest }));
        }
        let source = self.source()?;
        let json = source.read_unsized("manifest", digest, MAX_DOCUMENT)?;
        let pack = Pack::open(&source, digest)?;
        let blobs = self.outgoing(&pack.manifest)?;
        let size = blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        let text = reference.to_string();
        let layers = blobs.len();
        options.report(Event::Resolved { reference: &text, manifest: digest, layers, size });
        let moved = on_own_thread(|| {
            let remote = RegistryClient::configured(reference, options, Access::Push)?;
            let moved = remote.send(&blobs)?;
            let tag = match reference.digest() {
                Some(digest) => digest.to_string(),
                None => reference.tag().unwrap_or("latest").to_owned(),
            };
            remote.send_manifest(&tag, MANIFEST_TYPE, &json)?;
            Ok(moved)
        });
        let moved = moved.map_err(failed)?;
        let present = size.saturating_sub(moved);
        Ok(Transferred { name: name.to_owned(), digest, moved, present })
    }

    /// The verified blobs of a snapshot, each once.
    fn outgoing(&self, manifest: &Manifest) -> Result<Vec<BlobToUpload>, BakeError> {
        let mut blobs: Vec<BlobToUpload> = Vec::new();
        for (section, blob) in sections(manifest) {
            if blobs.iter().any(|known| known.digest == blob.digest) {
                continue;
            }
            if let Some(problem) = self.problem_of(section, &blob)? {
                return Err(problem.into());
            }
            let path = self.layout().blob_path(blob.digest);
            blobs.push(BlobToUpload { digest: blob.digest, size: blob.size, path });
        }
        Ok(blobs)
    }

    /// Pulls a snapshot from a registry and names it `name`, or else by the last part of the repository.
    ///
    /// # Errors
    /// [`InputError::NotASnapshot`] if the artifact is something else. The registry does not have it, or it
    /// is damaged.
    pub fn pull(
        &self,
        reference: &Reference,
        name: Option<&str>,
        options: &FetchOptions,
    ) -> Result<Transferred, BakeError> {
        let last = reference.repository().rsplit('/').next().unwrap_or_default();
        let name = name.unwrap_or(last);
        self.check_name(name)?;
        if options.offline {
            return Err(BakeError::Store(StoreError::Pull { source: offline(reference) }));
        }
        // Keeps the blobs from a sweep until the snapshot has its name.
        let _hold = self.layout().hold()?;
        let mut pulled = on_own_thread(|| self.receive(reference, options))?;
        let pack = Pack::open(&self.source()?, pulled.digest)?;
        self.source()?.read("config", &pack.manifest.config, MAX_DOCUMENT)?;
        self.set_name(name, pulled.digest)?;
        name.clone_into(&mut pulled.name);
        Ok(pulled)
    }

    /// Receives missing blobs, and the manifest last.
    fn receive(
        &self,
        reference: &Reference,
        options: &FetchOptions,
    ) -> Result<Transferred, PullError> {
        let remote = RegistryClient::configured(reference, options, Access::Pull)?;
        let json = remote.manifest()?;
        let digest = Digest::of(&json);
        let manifest = Manifest::decode(&json).map_err(|error| match error {
            PackError::ArtifactType { found } => {
                BakeError::Input(InputError::NotASnapshot { place: reference.to_string(), found })
            }
            error => error.into(),
        })?;
        check_sizes(&manifest)?;
        let mut wanted: Vec<Descriptor> = Vec::new();
        for (section, blob) in sections(&manifest) {
            if wanted.iter().all(|known| known.digest != blob.digest) {
                let media_type = section.to_owned();
                wanted.push(Descriptor { digest: blob.digest, size: blob.size, media_type });
            }
        }
        let size = wanted.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        let (text, layers) = (reference.to_string(), wanted.len());
        remote.report(Event::Resolved { reference: &text, manifest: digest, layers, size });
        let mut missing = Vec::new();
        for blob in &wanted {
            let Descriptor { digest, size, .. } = *blob;
            if self.is_whole(&supermachine_snapshots::pack::Descriptor { digest, size })? {
                remote.report(Event::Cached { digest, size });
            } else {
                missing.push(blob);
            }
        }
        let moved = missing.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        // A store and a cache of downloads share one layout of blobs.
        remote.receive(&BlobStore::open(self.dir())?, missing)?;
        self.layout().put(&json).map_err(BakeError::from)?;
        let present = size.saturating_sub(moved);
        Ok(Transferred { name: String::new(), digest, moved, present })
    }
}

/// Why a pull failed.
struct PullError(BakeError);

impl From<Error> for PullError {
    fn from(source: Error) -> Self {
        Self(BakeError::Store(StoreError::Pull { source }))
    }
}

impl From<BakeError> for PullError {
    fn from(error: BakeError) -> Self {
        Self(error)
    }
}

impl From<PullError> for BakeError {
    fn from(incoming: PullError) -> Self {
        incoming.0
    }
}

/// Refuses oversized parts before downloading them.
fn check_sizes(manifest: &Manifest) -> Result<(), BakeError> {
    let limits = [
        ("config", manifest.config, MAX_DOCUMENT),
        ("state", manifest.state, MAX_STATE_SIZE),
        ("index", manifest.index, MAX_INDEX_SIZE),
    ];
    for (section, blob, limit) in limits {
        if blob.size > limit {
            return Err(PackError::TooLarge { section, size: blob.size, limit }.into());
        }
    }
    Ok(())
}

fn offline(reference: &Reference) -> Error {
    Error::NotCached { reference: reference.to_string(), missing: MissingBlob::Manifest }
}
