//! Images that were fetched before, from the cache alone.

use supermachine_formats::Digest;

use super::blobs::BlobStore;
use super::error::{Document, Error, MissingBlob};
use super::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use super::reference::Reference;
use super::{Origin, tags};

pub(crate) struct Offline<'a> {
    reference: &'a Reference,
    blobs: &'a BlobStore,
}

impl<'a> Offline<'a> {
    pub(crate) fn new(reference: &'a Reference, blobs: &'a BlobStore) -> Self {
        Self { reference, blobs }
    }

    fn lacks(&self, missing: MissingBlob) -> Error {
        Error::NotCached { reference: self.reference.to_string(), missing }
    }
}

impl Origin for Offline<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        let known = match self.reference.digest() {
            None => tags::recall(self.blobs, &self.reference.to_string())?,
            known => known,
        };
        let digest = known.ok_or_else(|| self.lacks(MissingBlob::Manifest))?;
        let json = self
            .blobs
            .read_small(digest, Document::Manifest, MAX_DOCUMENT)?
            .ok_or_else(|| self.lacks(MissingBlob::Blob(digest)))?;
        Ok((digest, Manifest::parse(&json, digest)?))
    }

    fn fetch_document(&mut self, wanted: &Descriptor, _kind: Document) -> Result<(), Error> {
        Err(self.lacks(MissingBlob::Blob(wanted.digest)))
    }

    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error> {
        match wanted.iter().find(|layer| !self.blobs.contains(layer.digest, layer.size)) {
            None => Ok(()),
            Some(layer) => Err(self.lacks(MissingBlob::Blob(layer.digest))),
        }
    }
}
