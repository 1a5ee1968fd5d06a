//! Events of fetches and pushes.

use std::time::Duration;

use supermachine_formats::Digest;

use super::error::Error;

/// Receives events, on another thread than the caller's; must not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// An event of a fetch or push.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The manifest is resolved.
    Resolved {
        /// The image.
        reference: &'a str,
        /// The digest of the platform's own manifest.
        manifest: Digest,
        /// The number of distinct layers.
        layers: usize,
        /// Their total size in bytes.
        size: u64,
    },
    /// A layer is in the cache already.
    Cached {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// A blob is damaged, in the cache or in transit, and will be fetched again.
    Damaged {
        /// The blob.
        digest: Digest,
        /// The digest of its content.
        found: Digest,
        /// Whether it was in the cache; otherwise it was damaged in transit.
        was_cached: bool,
    },
    /// A layer is being fetched or sent. Reported repeatedly.
    Advanced {
        /// The layer.
        digest: Digest,
        /// Bytes transferred; lower than before after a restart.
        received: u64,
        /// Bytes of the whole layer.
        size: u64,
    },
    /// A transfer broke and will be retried.
    Retrying {
        /// The layer.
        digest: Digest,
        /// The number of the next attempt, from 2.
        attempt: u32,
    },
    /// A request to a registry or token service failed and will be retried after a pause.
    Waiting {
        /// What went wrong.
        error: &'a Error,
        /// The pause.
        pause: Duration,
    },
    /// A mirror failed. The fetch continues with the next one, or with the registry itself.
    MirrorFailed {
        /// The image at the mirror.
        mirror: &'a str,
        /// What went wrong.
        error: &'a Error,
    },
    /// A registry does not have an image with a short name. The search continues with the next one.
    NotThere {
        /// The image at the registry.
        reference: &'a str,
        /// What went wrong.
        error: &'a Error,
    },
    /// A credential helper failed, or a file of credentials cannot be used. The fetch continues without it.
    HelperFailed {
        /// What went wrong.
        error: &'a Error,
    },
    /// A layer is verified and cached.
    Fetched {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// The registry already has a layer of a push.
    Present {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// The registry has received a layer.
    Sent {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
}
