//! One blob's or manifest's way to the registry, over connections that break.
//!
//! Owns the retries and the watch over transfers that stand still. Before each try the registry
//! is asked whether it has the blob, so that nothing is sent for nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use reqwest::Body;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{StatusCode, Url};
use supermachine_formats::Digest;

use super::error::{Cause, Error};
use super::session::Session;
use super::{Event, FetchOptions};

/// How often something is sent: once, and three times more if the connection breaks.
const ATTEMPTS: u32 = 4;
/// The most time between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How much is read from a file at a time.
const PIECE: u64 = 256 << 10;
/// How many times the idle limit a registry may take to store what it was sent.
const STORING: u32 = 10;

/// A blob that is sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) path: PathBuf,
}

#[derive(Clone, Copy)]
pub(crate) struct Upload<'a> {
    pub(crate) session: &'a Session,
    pub(crate) options: &'a FetchOptions,
}

/// Why an attempt failed.
enum Break {
    Final(Error),
    /// Trying again may be of use.
    Passing(Cause),
}

impl Upload<'_> {
    /// Sends a blob, unless the registry has it; tells whether it was sent.
    pub(crate) async fn run(&self, blob: &Outgoing) -> Result<bool, Error> {
        let Outgoing { digest, size, .. } = *blob;
        let sent = Arc::new(AtomicU64::new(0));
        let mut pause = self.options.timeouts.pause;
        for attempt in 1.. {
            let source = match self.attempt(blob, &sent).await {
                Ok(true) => {
                    self.options.report(Event::Sent { digest, size });
                    return Ok(true);
                }
                Ok(false) => {
                    self.options.report(Event::Present { digest, size });
                    return Ok(false);
                }
                Err(Break::Final(error)) => return Err(error),
                Err(Break::Passing(source)) => source,
            };
            if attempt == ATTEMPTS {
                // Only a number to be told.
                let received = sent.load(Ordering::Relaxed);
                return Err(Error::Interrupted {
                    digest,
                    received,
                    size,
                    attempts: attempt,
                    source,
                });
            }
            self.options.report(Event::Retrying { digest, attempt: attempt + 1 });
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(MAX_PAUSE);
        }
        Ok(false)
    }

    /// Sends a manifest under a tag, or its own digest.
    pub(crate) async fn manifest(
        &self,
        name: &str,
        media_type: &str,
        json: &[u8],
    ) -> Result<(), Error> {
        let url = self.session.url(&format!("manifests/{name}"));
        let mut pause = self.options.timeouts.pause;
        for attempt in 1.. {
            let put = self.session.authorized(|client| {
                client.put(&url).header(CONTENT_TYPE, media_type).body(json.to_vec())
            });
            let outcome = match put.await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => self.refused(name, response.status()),
                Err(error @ Error::Unreachable { .. }) => Break::Passing(Box::new(error)),
                Err(error) => Break::Final(error),
            };
            match outcome {
                Break::Final(error) => return Err(error),
                Break::Passing(source) if attempt == ATTEMPTS => {
                    let registry = self.session.registry_name().to_owned();
                    return Err(Error::Unreachable { registry, source });
                }
                Break::Passing(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(MAX_PAUSE);
        }
        Ok(())
    }

    async fn attempt(&self, blob: &Outgoing, sent: &Arc<AtomicU64>) -> Result<bool, Break> {
        let object = blob.digest.to_string();
        let url = self.session.url(&format!("blobs/{object}"));
        let asked = self.session.authorized(|client| client.head(&url)).await;
        match asked.map_err(passing)?.status() {
            StatusCode::OK => return Ok(false),
            StatusCode::NOT_FOUND => {}
            status => return Err(self.refused(&object, status)),
        }
        let mut place = self.begin(&object).await?;
        place.query_pairs_mut().append_pair("digest", &object);
        // Only a number to be told, and watched.
        sent.store(0, Ordering::Relaxed);
        let put = self.session.authorized_at(&place, |client| {
            client
                .put(place.clone())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(self.body(blob, sent))
        });
        let response = tokio::select! {
            response = put => response.map_err(passing)?,
            () = self.stalled(blob.size, sent) => {
                return Err(Break::Passing(Box::new(io::Error::from(io::ErrorKind::TimedOut))));
            }
        };
        if response.status().is_success() {
            Ok(true)
        } else {
            Err(self.refused(&object, response.status()))
        }
    }

    /// Asks for a place to send a blob to.
    async fn begin(&self, object: &str) -> Result<Url, Break> {
        let url = self.session.url("blobs/uploads/");
        let asked = self.session.authorized(|client| client.post(&url).header(CONTENT_LENGTH, 0));
        let response = asked.await.map_err(passing)?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(object, response.status()));
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let place = location.and_then(|location| self.session.place(location));
        place.ok_or_else(|| self.refused(object, response.status()))
    }

    /// Ends when nothing has moved for too long.
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

    fn body(&self, blob: &Outgoing, sent: &Arc<AtomicU64>) -> Body {
        let Outgoing { digest, size, .. } = *blob;
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

    fn refused(&self, object: &str, status: StatusCode) -> Break {
        let error = self.session.status(object, status);
        match status.as_u16() {
            408 | 429 | 500.. => Break::Passing(Box::new(error)),
            _ => Break::Final(error),
        }
    }
}

fn passing(error: Error) -> Break {
    match error {
        error @ Error::Unreachable { .. } => Break::Passing(Box::new(error)),
        error => Break::Final(error),
    }
}
