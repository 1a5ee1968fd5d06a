//! A blocking client for one repository: a session with a runtime of its own.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use supermachine_formats::Digest;
use tokio::runtime::Runtime;

use super::download::Download;
use super::session::{Access, RegistrySession};
use super::upload::{BlobToUpload, Upload};
use crate::oci::cache::BlobStore;
use crate::oci::credentials::{Credentials, default_files, search};
use crate::oci::error::Error;
use crate::oci::manifest::Descriptor;
use crate::oci::mirrors::own_endpoint;
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;
use crate::oci::reference::Reference;

/// The number of concurrent transfers.
const PARALLEL: usize = 4;

pub(crate) struct RegistryClient {
    reference: Reference,
    options: FetchOptions,
    session: RegistrySession,
    runtime: Runtime,
}

impl RegistryClient {
    /// Looks up credentials and prepares a session, without contacting the registry. The client must be
    /// created and used on a thread outside any async runtime.
    pub(crate) fn new(
        reference: &Reference,
        options: &FetchOptions,
        access: Access,
    ) -> Result<Self, Error> {
        let credentials = credentials(reference, options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start an event loop for", reference.registry()))?;
        // The clients need the runtime's timers.
        let session = {
            let _guard = runtime.enter();
            RegistrySession::new(reference, credentials, options, access)?
        };
        Ok(Self { reference: reference.clone(), options: options.clone(), session, runtime })
    }

    /// A client for the registry itself, as the user's files configure it. Uses no mirrors.
    pub(crate) fn configured(
        reference: &Reference,
        options: &FetchOptions,
        access: Access,
    ) -> Result<Self, Error> {
        let place = own_endpoint(reference, options)?;
        Self::new(&place.reference, &place.options(reference, options), access)
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The manifest that the reference names.
    pub(crate) fn manifest(&self) -> Result<Vec<u8>, Error> {
        let tag = self.reference.tag().unwrap_or("latest");
        self.checked_manifest(tag, self.reference.digest())
    }

    /// The manifest with the digest `digest` in the same repository.
    pub(crate) fn manifest_of(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.checked_manifest("", Some(digest)).map_err(|error| match error {
            Error::NoSuchImage { .. } => {
                Error::BlobMissing { digest, place: self.reference.registry().to_owned() }
            }
            other => other,
        })
    }

    /// Fetches a manifest. Retries once if it arrives damaged.
    fn checked_manifest(&self, tag: &str, digest: Option<Digest>) -> Result<Vec<u8>, Error> {
        let fetch = || self.runtime.block_on(self.session.manifest(tag, digest));
        match fetch() {
            Err(Error::DigestMismatch { digest, found }) => {
                self.report(Event::Damaged { digest, found, was_cached: false });
                fetch()
            }
            other => other,
        }
    }

    /// Downloads blobs concurrently.
    pub(crate) fn receive<'d>(
        &self,
        blobs: &BlobStore,
        wanted: impl IntoIterator<Item = &'d Descriptor>,
    ) -> Result<(), Error> {
        let download = Download { session: &self.session, blobs, options: &self.options };
        let all = stream::iter(wanted).map(|blob| download.run(blob)).buffer_unordered(PARALLEL);
        self.runtime.block_on(all.try_collect::<()>())
    }

    /// Uploads missing blobs concurrently. Returns the bytes sent.
    pub(crate) fn send(&self, blobs: &[BlobToUpload]) -> Result<u64, Error> {
        let upload = Upload { session: &self.session, options: &self.options };
        let sent = async |blob: &BlobToUpload| {
            Ok::<u64, Error>(if upload.run(blob).await? { blob.size } else { 0 })
        };
        let all = stream::iter(blobs).map(sent).buffer_unordered(PARALLEL);
        self.runtime.block_on(all.try_fold(0, async |sum: u64, size| Ok(sum.saturating_add(size))))
    }

    /// Uploads a manifest as `name`.
    pub(crate) fn send_manifest(
        &self,
        name: &str,
        media_type: &str,
        json: &[u8],
    ) -> Result<(), Error> {
        let upload = Upload { session: &self.session, options: &self.options };
        self.runtime.block_on(upload.manifest(name, media_type, json))
    }

    pub(crate) fn report(&self, event: Event<'_>) {
        self.options.report(event);
    }
}

/// The caller's credentials, or the user's stored ones. Reports a failed helper or an unusable file and
/// continues, as the registry may need no credentials.
fn credentials(
    reference: &Reference,
    options: &FetchOptions,
) -> Result<Option<Credentials>, Error> {
    if let Some(credentials) = &options.credentials {
        return Ok(Some(credentials.clone()));
    }
    let files = match &options.docker_config {
        Some(dir) => vec![dir.join("config.json")],
        None => default_files(),
    };
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    search(&files, &repository, options.timeouts.helper, &mut |error| {
        options.report(Event::HelperFailed { error: &error });
        Ok(())
    })
}
