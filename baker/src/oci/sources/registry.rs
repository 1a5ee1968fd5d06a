//! Images in registries, and in mirrors of them.
//!
//! Tries mirrors first, and the registry itself last. A mirror that fails is left out for the rest of
//! the fetch. An image named by a digest whose manifest is cached needs no request.

use supermachine_formats::Digest;

use super::source::Source;
use crate::oci::cache::{BlobStore, remember};
use crate::oci::error::{Document, Error};
use crate::oci::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use crate::oci::mirrors::{Endpoint, endpoints};
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;
use crate::oci::reference::Reference;
use crate::oci::registry::{Access, RegistryClient};

pub(crate) struct Registry<'a> {
    reference: &'a Reference,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
    /// The places left to try, the best last.
    endpoints: Vec<Endpoint>,
    /// The client for the last of them.
    client: RegistryClient,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        reference: &'a Reference,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Result<Self, Error> {
        let mut endpoints = endpoints(reference, options)?;
        endpoints.reverse();
        let client = connect(reference, &endpoints, options)?;
        Ok(Self { reference, blobs, options, endpoints, client })
    }

    /// Asks the best place, and the next one if it fails.
    fn ask<T>(
        &mut self,
        request: impl Fn(&RegistryClient, &BlobStore) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let error = match request(&self.client, self.blobs) {
                Err(error) if self.endpoints.len() > 1 => error,
                other => return other,
            };
            let mirror = self.client.reference().to_string();
            self.options.report(Event::MirrorFailed { mirror: &mirror, error: &error });
            self.endpoints.pop();
            self.client = connect(self.reference, &self.endpoints, self.options)?;
        }
    }

    fn cached_root(&self) -> Result<Option<(Digest, Vec<u8>)>, Error> {
        let Some(digest) = self.reference.digest() else { return Ok(None) };
        match self.blobs.read_small(digest, Document::Manifest, MAX_DOCUMENT) {
            Err(Error::DigestMismatch { digest, found }) => {
                self.options.report(Event::Damaged { digest, found, was_cached: true });
                Ok(None)
            }
            other => Ok(other?.map(|json| (digest, json))),
        }
    }
}

/// A client for the last endpoint.
fn connect(
    reference: &Reference,
    endpoints: &[Endpoint],
    options: &FetchOptions,
) -> Result<RegistryClient, Error> {
    match endpoints.last() {
        Some(place) => {
            let own = place.options(reference, options);
            RegistryClient::new(&place.reference, &own, Access::Pull)
        }
        None => RegistryClient::new(reference, options, Access::Pull),
    }
}

impl Source for Registry<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        if let Some((digest, json)) = self.cached_root()? {
            return Ok((digest, Manifest::parse(&json, digest)?));
        }
        let json = self.ask(|client, _| client.manifest())?;
        // Parse before caching: only manifests may enter the cache.
        let digest = Digest::of(&json);
        let manifest = Manifest::parse(&json, digest)?;
        self.blobs.put(&json)?;
        remember(self.blobs, &self.reference.to_string(), digest)?;
        Ok((digest, manifest))
    }

    fn fetch_document(&mut self, wanted: &Descriptor, kind: Document) -> Result<(), Error> {
        if kind == Document::Manifest {
            let json = self.ask(|client, _| client.manifest_of(wanted.digest))?;
            return self.blobs.put(&json).map(drop);
        }
        self.ask(|client, blobs| client.receive(blobs, [wanted]))
    }

    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error> {
        for Descriptor { digest, size, .. } in wanted {
            if self.blobs.contains(*digest, *size) {
                self.options.report(Event::Cached { digest: *digest, size: *size });
            }
        }
        self.ask(|client, blobs| {
            let is_missing = |layer: &&Descriptor| !blobs.contains(layer.digest, layer.size);
            client.receive(blobs, wanted.iter().filter(is_missing))
        })
    }
}
