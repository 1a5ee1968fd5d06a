//! One blob's way from the registry into the cache, over connections that break.
//!
//! Owns the retries: where a transfer broke it is taken up again from that byte, as long as the
//! registry allows. Not more bytes than announced are ever written.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use oci_client::client::BlobResponse;
use oci_client::errors::DigestError;

use super::blobs::{BlobStore, BlobWriter};
use super::error::{Cause, Error};
use super::manifest::Descriptor;
use super::session::{Refusal, Session};
use super::{Event, FetchOptions};

/// How often a blob is asked for: once, and three times more if the connection breaks.
const ATTEMPTS: u32 = 4;

/// The most time between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
pub(crate) struct Download<'a> {
    pub(crate) session: &'a Session,
    pub(crate) blobs: &'a BlobStore,
    pub(crate) options: &'a FetchOptions,
}

/// Why an attempt did not bring the rest of the blob.
enum Break {
    Final(Error),
    /// The connection broke.
    Broken(Cause),
    /// The registry says that there is no more.
    Short,
}

impl Download<'_> {
    /// Receives the blob `wanted`, verifies it and puts it into the cache.
    pub(crate) async fn run(&self, wanted: &Descriptor) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *wanted;
        let mut writer = self.blobs.writer()?;
        let mut pause = self.options.timeouts.pause;
        for attempt in 1..=ATTEMPTS {
            let resumed = writer.written() > 0;
            let outcome = self.receive(wanted, &mut writer).await;
            let is_last = attempt == ATTEMPTS;
            match outcome {
                Ok(()) if resumed && !is_last && writer.digest() != digest => {
                    // The registry may have continued from elsewhere than it was asked to.
                    writer.restart()?;
                }
                Ok(()) => return self.commit(wanted, writer).await,
                Err(Break::Final(error)) => return Err(error),
                Err(Break::Short) if is_last => {
                    let found = writer.written();
                    return Err(Error::SizeMismatch { digest, expected: size, found });
                }
                Err(Break::Broken(source)) if is_last => {
                    let received = writer.written();
                    return Err(Error::Interrupted {
                        digest,
                        received,
                        size,
                        attempts: attempt,
                        source,
                    });
                }
                Err(Break::Short | Break::Broken(_)) => {}
            }
            self.options.report(Event::Retrying { digest, attempt: attempt + 1 });
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(MAX_PAUSE);
        }
        let found = writer.written();
        Err(Error::SizeMismatch { digest, expected: size, found })
    }

    /// Receives what `writer` lacks.
    async fn receive(&self, wanted: &Descriptor, writer: &mut BlobWriter) -> Result<(), Break> {
        let Descriptor { digest, size, .. } = *wanted;
        if writer.written() == size {
            return Ok(());
        }
        let response = match self.session.blob(digest, writer.written()).await {
            Ok(response) => response,
            Err(Refusal::Final(error)) => return Err(Break::Final(error)),
            Err(Refusal::Passing(source)) => return Err(Break::Broken(source)),
            Err(Refusal::OutOfRange) => return Err(Break::Short),
        };
        let mut stream: Pin<Box<dyn Stream<Item = _>>> = match response {
            BlobResponse::Partial(stream) => Box::pin(stream),
            BlobResponse::Full(stream) => {
                writer.restart().map_err(Break::Final)?;
                Box::pin(stream)
            }
        };
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                // All has come, and the library found the digest wrong. So will the commit,
                // which also tells what was found.
                Err(error) if error.get_ref().is_some_and(|e| e.is::<DigestError>()) => break,
                Err(error) => return Err(Break::Broken(error.into())),
            };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let found = writer.written().saturating_add(length);
            if found > size {
                return Err(Break::Final(Error::SizeMismatch { digest, expected: size, found }));
            }
            writer.write(&piece).map_err(Break::Final)?;
            self.options.report(Event::Advanced { digest, received: found, size });
        }
        if writer.written() < size { Err(Break::Short) } else { Ok(()) }
    }

    /// Syncing takes long, so it happens beside the other transfers.
    async fn commit(&self, wanted: &Descriptor, writer: BlobWriter) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *wanted;
        match tokio::task::spawn_blocking(move || writer.commit(digest, size)).await {
            Ok(result) => result?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => {
                    let path = self.blobs.path(digest);
                    return Err(Error::io("write", path)(std::io::Error::other(cancelled)));
                }
            },
        }
        self.options.report(Event::Fetched { digest, size });
        Ok(())
    }
}
