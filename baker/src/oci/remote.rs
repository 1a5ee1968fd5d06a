//! A repository of a registry, for those who need no async: the thread's own runtime, and what
//! is asked of the registry about artifacts of any kind.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Runtime;

use super::auth::{docker_config_dir, find_credentials};
use super::blobs::BlobStore;
use super::download::Download;
use super::error::Error;
use super::manifest::Descriptor;
use super::reference::Reference;
use super::session::{Access, Session};
use super::upload::{Outgoing, Upload};
use super::{Event, FetchOptions};

/// How many blobs are on their way at once.
const PARALLEL: usize = 4;

pub(crate) struct Remote<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) options: &'a FetchOptions,
    pub(crate) session: Session,
    pub(crate) runtime: Runtime,
}

impl<'a> Remote<'a> {
    /// Prepares to talk. Nothing is asked yet.
    pub(crate) fn new(
        reference: &'a Reference,
        options: &'a FetchOptions,
        access: Access,
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
            Session::new(reference, credentials, options, access)?
        };
        Ok(Self { reference, options, session, runtime })
    }

    /// The manifest that the reference names.
    pub(crate) fn manifest(&self) -> Result<Vec<u8>, Error> {
        let tag = self.reference.tag().unwrap_or("latest");
        self.runtime.block_on(self.session.manifest(tag, self.reference.digest()))
    }

    /// Receives blobs, several at once.
    pub(crate) fn receive<'d>(
        &self,
        blobs: &BlobStore,
        wanted: impl IntoIterator<Item = &'d Descriptor>,
    ) -> Result<(), Error> {
        let download = Download { session: &self.session, blobs, options: self.options };
        let all = stream::iter(wanted).map(|blob| download.run(blob)).buffer_unordered(PARALLEL);
        self.runtime.block_on(all.try_collect::<()>())
    }

    /// Sends blobs that are not there yet, several at once; gives the bytes that were sent.
    pub(crate) fn send(&self, blobs: &[Outgoing]) -> Result<u64, Error> {
        let upload = Upload { session: &self.session, options: self.options };
        let sent = async |blob: &Outgoing| {
            Ok::<u64, Error>(if upload.run(blob).await? { blob.size } else { 0 })
        };
        let all = stream::iter(blobs).map(sent).buffer_unordered(PARALLEL);
        self.runtime.block_on(all.try_fold(0, async |sum: u64, size| Ok(sum.saturating_add(size))))
    }

    /// Sends a manifest, under the reference's tag.
    pub(crate) fn send_manifest(
        &self,
        name: &str,
        media_type: &str,
        json: &[u8],
    ) -> Result<(), Error> {
        let upload = Upload { session: &self.session, options: self.options };
        self.runtime.block_on(upload.manifest(name, media_type, json))
    }

    pub(crate) fn report(&self, event: Event<'_>) {
        self.options.report(event);
    }
}

/// Runs `work` where it may block on a runtime of its own, even if the caller is in one.
pub(crate) fn on_own_thread<T: Send, E: Send + From<Error>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("oci-fetch".to_owned())
            .spawn_scoped(scope, work)
            .map_err(Error::io("start the thread", "oci-fetch"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
