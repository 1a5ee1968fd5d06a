//! Images in registries.
//!
//! Owns the order in which a registry is asked for things. An image named by a digest whose
//! manifest is cached is not asked for again.

use supermachine_formats::Digest;

use super::blobs::BlobStore;
use super::error::{Document, Error};
use super::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use super::reference::Reference;
use super::remote::Remote;
use super::session::Access;
use super::{Event, FetchOptions, Origin, tags};

pub(crate) struct Registry<'a> {
    remote: Remote<'a>,
    blobs: &'a BlobStore,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        reference: &'a Reference,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Result<Self, Error> {
        Ok(Self { remote: Remote::new(reference, options, Access::Pull)?, blobs })
    }

    fn cached_root(&self) -> Result<Option<(Digest, Vec<u8>)>, Error> {
        let Some(digest) = self.remote.reference.digest() else { return Ok(None) };
        match self.blobs.read_small(digest, Document::Manifest, MAX_DOCUMENT) {
            Err(Error::DigestMismatch { .. }) => Ok(None),
            other => Ok(other?.map(|json| (digest, json))),
        }
    }
}

impl Origin for Registry<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        if let Some((digest, json)) = self.cached_root()? {
            return Ok((digest, Manifest::parse(&json, digest)?));
        }
        let json = self.remote.manifest()?;
        // Read before it is kept: what is no manifest must not stay in the cache.
        let digest = Digest::of(&json);
        let manifest = Manifest::parse(&json, digest)?;
        self.blobs.put(&json)?;
        tags::remember(self.blobs, &self.remote.reference.to_string(), digest)?;
        Ok((digest, manifest))
    }

    fn fetch_document(&mut self, wanted: &Descriptor, kind: Document) -> Result<(), Error> {
        let Remote { session, runtime, reference, .. } = &self.remote;
        if kind == Document::Manifest {
            let manifest = session.manifest("", Some(wanted.digest));
            let json = runtime.block_on(manifest).map_err(|error| match error {
                Error::NoSuchImage { .. } => Error::BlobMissing {
                    digest: wanted.digest,
                    place: reference.registry().to_owned(),
                },
                other => other,
            })?;
            return self.blobs.put(&json).map(drop);
        }
        self.remote.receive(self.blobs, [wanted])
    }

    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error> {
        let (cached, missing): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|layer| self.blobs.contains(layer.digest, layer.size));
        for Descriptor { digest, size, .. } in cached {
            self.remote.report(Event::Cached { digest: *digest, size: *size });
        }
        self.remote.receive(self.blobs, missing)
    }
}
