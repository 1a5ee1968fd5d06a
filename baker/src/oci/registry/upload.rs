//! The upload of one blob or manifest, with retries.
//!
//! Detects stalled transfers. Asks before each attempt whether the registry has the blob already.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Method, RequestBuilder, StatusCode, Url};
use supermachine_formats::Digest;

use super::retry::{Backoff, Failure};
use super::session::RegistrySession;
use crate::oci::error::Error;
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;

/// How many bytes are read from a file at a time.
const PIECE: u64 = 256 << 10;
/// How many idle limits a registry may take to store an upload.
const STORING: u32 = 10;

/// A blob to upload.
#[derive(Debug, Clone)]
pub(crate) struct BlobToUpload {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) path: PathBuf,
}

#[derive(Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) session: &'a RegistrySession,
    pub(super) options: &'a FetchOptions,
}

impl Upload<'_> {
    /// Uploads a blob, unless the registry has it. Returns whether it was sent.
    pub(super) async fn run(&self, blob: &BlobToUpload) -> Result<bool, Error> {
        let BlobToUpload { digest, size, .. } = *blob;
        let sent = Arc::new(AtomicU64::new(0));
        let mut backoff = Backoff::new(self.options.timeouts);
        loop {
            let (error, asked) = match self.attempt(blob, &sent).await {
                Ok(true) => {
                    self.options.report(Event::Sent { digest, size });
                    return Ok(true);
                }
                Ok(false) => {
                    self.options.report(Event::Present { digest, size });
                    return Ok(false);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient { error, retry_after }) => (error, retry_after),
            };
            let attempts = backoff.attempt();
            let Some(pause) = backoff.next(asked) else {
                // The count serves only the error.
                let (received, source) = (sent.load(Ordering::Relaxed), Box::new(error));
                return Err(Error::Interrupted { digest, received, size, attempts, source });
            };
            self.options.report(Event::Retrying { digest, attempt: backoff.attempt() });
            tokio::time::sleep(pause).await;
        }
    }

    /// Uploads a manifest as a tag or digest.
    pub(super) async fn manifest(
        &self,
        name: &str,
        media_type: &str,
        json: &[u8],
    ) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.options.timeouts);
        loop {
            let (error, asked) = match self.try_manifest(name, media_type, json).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient { error, retry_after }) => (error, retry_after),
            };
            let Some(pause) = backoff.next(asked) else {
                let registry = self.session.registry_name().to_owned();
                return Err(Error::Unreachable { registry, source: Box::new(error) });
            };
            self.options.report(Event::Waiting { error: &error, pause });
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_manifest(&self, name: &str, media_type: &str, json: &[u8]) -> Result<(), Failure> {
        let url = self.url(&format!("manifests/{name}")).await?;
        let request =
            |builder: RequestBuilder| builder.header(CONTENT_TYPE, media_type).body(json.to_vec());
        let response = self.session.request(Method::PUT, url, &request).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.session.refusal(name, response).await)
    }

    async fn url(&self, object: &str) -> Result<Url, Failure> {
        self.session.url(object).await.map_err(Failure::Final)
    }

    async fn attempt(&self, blob: &BlobToUpload, sent: &Arc<AtomicU64>) -> Result<bool, Failure> {
        let object = blob.digest.to_string();
        let url = self.url(&format!("blobs/{object}")).await?;
        let asked = self.session.request(Method::HEAD, url, &|builder| builder).await?;
        match asked.status() {
            StatusCode::OK => return Ok(false),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.session.refusal(&object, asked).await),
        }
        let mut place = self.begin(&object).await?;
        place.query_pairs_mut().append_pair("digest", &object);
        // The count guards nothing.
        sent.store(0, Ordering::Relaxed);
        let request = |builder: RequestBuilder| {
            builder
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(self.body(blob, sent))
        };
        let response = tokio::select! {
            response = self.session.put(place, &request) => response?,
            () = self.stalled(blob.size, sent) => return Err(self.timed_out()),
        };
        if response.status().is_success() {
            Ok(true)
        } else {
            Err(self.session.refusal(&object, response).await)
        }
    }

    /// Requests an upload location.
    async fn begin(&self, object: &str) -> Result<Url, Failure> {
        let url = self.url("blobs/uploads/").await?;
        let request = |builder: RequestBuilder| builder.header(CONTENT_LENGTH, 0);
        let response = self.session.request(Method::POST, url, &request).await?;
        if response.status() == StatusCode::ACCEPTED
            && let Some(location) = response.headers().get(LOCATION)
            && let Ok(location) = location.to_str()
            && let Some(place) = self.session.place(location).await
        {
            return Ok(place);
        }
        Err(self.session.refusal(object, response).await)
    }

    fn timed_out(&self) -> Failure {
        let registry = self.session.registry_name().to_owned();
        let source = io::Error::from(io::ErrorKind::TimedOut).into();
        Failure::Transient { error: Error::Unreachable { registry, source }, retry_after: None }
    }

    /// Returns when the transfer has stalled.
    async fn stalled(&self, size: u64, sent: &AtomicU64) {
        let (mut last, mut idle) = (0, 0);
        loop {
            tokio::time::sleep(self.options.timeouts.idle).await;
            let now = sent.load(Ordering::Relaxed);
            idle = if now == last { idle + 1 } else { 0 };
            last = now;
            let limit = if now == size { STORING } else { 1 };
            if idle > limit {
                return;
            }
        }
    }

    fn body(&self, blob: &BlobToUpload, sent: &Arc<AtomicU64>) -> Body {
        let BlobToUpload { digest, size, .. } = *blob;
        let (progress, sent) = (self.options.progress.clone(), Arc::clone(sent));
        let begun = File::open(&blob.path);
        Body::wrap_stream(stream::unfold(begun, move |file| {
            let (progress, sent) = (progress.clone(), Arc::clone(&sent));
            async move {
                let mut file = match file {
                    Ok(file) => file,
                    Err(error) => {
                        let ended = Err(io::ErrorKind::UnexpectedEof.into());
                        return (error.kind() != io::ErrorKind::UnexpectedEof)
                            .then_some((Err(error), ended));
                    }
                };
                let mut piece = Vec::new();
                match (&mut file).take(PIECE).read_to_end(&mut piece) {
                    Ok(0) => None,
                    Ok(length) => {
                        let received = sent.fetch_add(length as u64, Ordering::Relaxed);
                        let received = received.saturating_add(length as u64);
                        if let Some(progress) = progress {
                            progress.event(Event::Advanced { digest, received, size });
                        }
                        Some((Ok(piece), Ok(file)))
                    }
                    Err(error) => {
                        let ended = Err(io::ErrorKind::UnexpectedEof.into());
                        Some((Err(error), ended))
                    }
                }
            }
        }))
    }
}
