//! Images in registries.
//!
//! Owns the order in which a registry is asked for things, and the thread and runtime on which
//! that happens. An image named by a digest whose manifest is cached is not asked for again.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use supermachine_formats::Digest;
use tokio::runtime::Runtime;

use super::auth::{docker_config_dir, find_credentials};
use super::blobs::BlobStore;
use super::download::Download;
use super::error::{Document, Error};
use super::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use super::reference::Reference;
use super::session::Session;
use super::{Event, FetchOptions, Origin, tags};

/// How many layers are received at once.
const PARALLEL: usize = 4;

pub(crate) struct Registry<'a> {
    reference: &'a Reference,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
    session: Session,
    runtime: Runtime,
}

impl<'a> Registry<'a> {
    pub(crate) fn new(
        reference: &'a Reference,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Result<Self, Error> {
        let credentials = match &options.credentials {
            Some(credentials) => Some(credentials.clone()),
            None => match options.docker_config.clone().or_else(docker_config_dir) {
                Some(dir) => find_credentials(&dir, reference.registry())?,
                None => None,
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start an event loop for", reference.registry()))?;
        // The clients need the runtime's timers.
        let session = {
            let _guard = runtime.enter();
            Session::new(reference, credentials, options)?
        };
        Ok(Self { reference, blobs, options, session, runtime })
    }

    fn cached_root(&self) -> Result<Option<(Digest, Vec<u8>)>, Error> {
        let Some(digest) = self.reference.digest() else { return Ok(None) };
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
        let tag = self.reference.tag().unwrap_or("latest");
        let json = self.runtime.block_on(self.session.manifest(tag, self.reference.digest()))?;
        // Read before it is kept: what is no manifest must not stay in the cache.
        let digest = Digest::of(&json);
        let manifest = Manifest::parse(&json, digest)?;
        self.blobs.put(&json)?;
        tags::remember(self.blobs, &self.reference.to_string(), digest)?;
        Ok((digest, manifest))
    }

    fn fetch_document(&mut self, wanted: &Descriptor, kind: Document) -> Result<(), Error> {
        if kind == Document::Manifest {
            let manifest = self.session.manifest("", Some(wanted.digest));
            let json = self.runtime.block_on(manifest).map_err(|error| match error {
                Error::NoSuchImage { .. } => Error::BlobMissing {
                    digest: wanted.digest,
                    place: self.reference.registry().to_owned(),
                },
                other => other,
            })?;
            return self.blobs.put(&json).map(drop);
        }
        let download =
            Download { session: &self.session, blobs: self.blobs, options: self.options };
        self.runtime.block_on(download.run(wanted))
    }

    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error> {
        let (cached, missing): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|layer| self.blobs.contains(layer.digest, layer.size));
        for Descriptor { digest, size, .. } in cached {
            self.options.report(Event::Cached { digest: *digest, size: *size });
        }
        let download =
            Download { session: &self.session, blobs: self.blobs, options: self.options };
        self.runtime.block_on(
            stream::iter(missing)
                .map(|layer| download.run(layer))
                .buffer_unordered(PARALLEL)
                .try_collect::<()>(),
        )
    }
}

/// Runs `work` where it may block on a runtime of its own, even if the caller is in one.
pub(crate) fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("oci-fetch".to_owned())
            .spawn_scoped(scope, work)
            .map_err(Error::io("start the thread", "oci-fetch"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
