//! Images fetched before, from the cache alone.

use supermachine_formats::Digest;

use super::source::Source;
use crate::oci::cache::{BlobStore, recall};
use crate::oci::error::{Document, Error, MissingBlob};
use crate::oci::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use crate::oci::reference::Reference;

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

impl Source for Offline<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        let known = match self.reference.digest() {
            None => recall(self.blobs, &self.reference.to_string())?,
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
