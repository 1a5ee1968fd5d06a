//! The download of one blob into the cache, with retries.
//!
//! A broken transfer continues from where it broke, if the registry supports ranges. A blob that
//! arrives damaged is fetched once more. Never writes more bytes than the descriptor announces.

use std::time::Duration;

use super::redirect::innermost;
use super::retry::{Backoff, Failure};
use super::session::{BlobStart, RegistrySession};
use crate::oci::cache::{BlobStore, BlobWriter};
use crate::oci::error::{Cause, Error};
use crate::oci::manifest::Descriptor;
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;

#[derive(Clone, Copy)]
pub(super) struct Download<'a> {
    pub(super) session: &'a RegistrySession,
    pub(super) blobs: &'a BlobStore,
    pub(super) options: &'a FetchOptions,
}

/// Why an attempt did not complete the blob.
enum AttemptError {
    Final(Error),
    /// The connection broke.
    Broken {
        cause: Cause,
        retry_after: Option<Duration>,
    },
    /// The response stopped before the announced size.
    Short,
}

impl Download<'_> {
    /// Downloads and verifies the blob `wanted`, and stores it in the cache.
    pub(super) async fn run(&self, wanted: &Descriptor) -> Result<(), Error> {
        let Descriptor { digest, .. } = *wanted;
        let mut writer = self.blobs.writer()?;
        let mut backoff = Backoff::new(self.options.timeouts);
        let mut was_damaged = false;
        loop {
            let resumed = writer.written() > 0;
            let asked = match self.receive(wanted, &mut writer).await {
                Ok(()) => {
                    let found = writer.digest();
                    if found == digest || backoff.is_over() || was_damaged && !resumed {
                        return self.commit(wanted, writer).await;
                    }
                    // A registry may continue from another offset than requested.
                    if !resumed {
                        was_damaged = true;
                        self.options.report(Event::Damaged { digest, found, was_cached: false });
                    }
                    writer.restart()?;
                    None
                }
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Short) if backoff.is_over() => {
                    return Err(short(wanted, &writer));
                }
                Err(AttemptError::Short) => None,
                Err(AttemptError::Broken { cause, retry_after }) => {
                    if backoff.is_over() || backoff.is_too_long(retry_after) {
                        return Err(interrupted(wanted, &writer, backoff.attempt(), cause));
                    }
                    retry_after
                }
            };
            let Some(pause) = backoff.next(asked) else { return self.commit(wanted, writer).await };
            self.options.report(Event::Retrying { digest, attempt: backoff.attempt() });
            tokio::time::sleep(pause).await;
        }
    }

    /// Receives what `writer` lacks.
    async fn receive(
        &self,
        wanted: &Descriptor,
        writer: &mut BlobWriter,
    ) -> Result<(), AttemptError> {
        let Descriptor { digest, size, .. } = *wanted;
        if writer.written() == size && size > 0 {
            return Ok(());
        }
        let mut response = match self.session.blob(digest, writer.written()).await {
            Ok(BlobStart::Rest(response)) => response,
            Ok(BlobStart::Whole(response)) => {
                writer.restart().map_err(AttemptError::Final)?;
                response
            }
            // An empty blob has no first byte.
            Ok(BlobStart::OutOfRange) if size == 0 => return Ok(()),
            Ok(BlobStart::OutOfRange) => return Err(AttemptError::Short),
            Err(Failure::Final(error)) => return Err(AttemptError::Final(error)),
            Err(Failure::Transient { error, retry_after }) => {
                return Err(AttemptError::Broken { cause: Box::new(error), retry_after });
            }
        };
        let broken = |error| AttemptError::Broken { cause: innermost(error), retry_after: None };
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let found = writer.written().saturating_add(length);
            if found > size {
                return Err(AttemptError::Final(Error::SizeMismatch {
                    digest,
                    expected: size,
                    found,
                }));
            }
            writer.write(&piece).map_err(AttemptError::Final)?;
            self.options.report(Event::Advanced { digest, received: found, size });
        }
        if writer.written() < size { Err(AttemptError::Short) } else { Ok(()) }
    }

    /// Commits on another thread, as syncing is slow and other transfers continue meanwhile.
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

fn short(wanted: &Descriptor, writer: &BlobWriter) -> Error {
    let Descriptor { digest, size, .. } = *wanted;
    Error::SizeMismatch { digest, expected: size, found: writer.written() }
}

fn interrupted(wanted: &Descriptor, writer: &BlobWriter, attempts: u32, source: Cause) -> Error {
    let Descriptor { digest, size, .. } = *wanted;
    Error::Interrupted { digest, received: writer.written(), size, attempts, source }
}
