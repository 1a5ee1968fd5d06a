//! What can go wrong between the name of an image and its verified blobs.
//!
//! Owns the error types of the whole `oci` module. Every variant carries the facts that a
//! caller needs to react; texts that came from outside are never the only carrier of one.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use supermachine_formats::Digest;

use super::platform::Platform;

/// An error of another library, kept as the cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An OCI image could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text does not name an image.
    #[error("{reference:?} does not name an image")]
    InvalidReference {
        /// The text as given.
        reference: String,
        /// What is wrong with it.
        source: ReferenceProblem,
    },
    /// The text does not name a platform.
    #[error("{platform:?} does not name a platform of the form os/architecture[/variant]")]
    InvalidPlatform {
        /// The text as given.
        platform: String,
    },
    /// The registry does not have the image.
    #[error("no such image: {reference}")]
    NoSuchImage {
        /// The image asked for.
        reference: String,
    },
    /// The network was not to be used, and something that is needed is not in the cache.
    #[error("{reference} cannot be had offline: {missing} is not in the cache")]
    NotCached {
        /// The image asked for.
        reference: String,
        /// What is not there.
        missing: MissingBlob,
    },
    /// The registry, or its token service, refused the credentials or the lack of them.
    #[error("{registry} refused access {}", with_or_without(*credentials_sent))]
    Unauthorized {
        /// The registry.
        registry: String,
        /// Whether credentials were sent, or the request was anonymous.
        credentials_sent: bool,
    },
    /// The service that hands out the registry's tokens did not hand out one.
    #[error("the token service {service} of {registry} gave no token")]
    TokenService {
        /// The registry that wants a token.
        registry: String,
        /// The service's address, as the registry gave it.
        service: String,
        /// Why there is no token.
        source: TokenFault,
    },
    /// No conversation with the registry was possible.
    #[error("the registry {registry} cannot be reached")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What the connection failed on.
        source: Cause,
    },
    /// The registry answered with a status that is no answer to the request.
    #[error("{registry} answered a request for {object} with HTTP status {status}")]
    Registry {
        /// The registry.
        registry: String,
        /// The tag or digest that was asked for.
        object: String,
        /// The HTTP status.
        status: u16,
    },
    /// The content is not what its digest says.
    #[error("the content of {digest} is damaged: its digest is {found}")]
    DigestMismatch {
        /// The digest by which the content was asked for.
        digest: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The content is shorter or longer than its descriptor says.
    #[error("{digest} has {found} bytes or more where {expected} were announced")]
    SizeMismatch {
        /// The digest by which the content was asked for.
        digest: Digest,
        /// Bytes by its descriptor.
        expected: u64,
        /// Bytes counted before reading stopped.
        found: u64,
    },
    /// The connection kept breaking in the middle of a blob.
    #[error("{digest} broke off at byte {received} of {size} in the last of {attempts} attempts")]
    Interrupted {
        /// The blob.
        digest: Digest,
        /// Bytes that had arrived.
        received: u64,
        /// Bytes of the whole blob.
        size: u64,
        /// Attempts made.
        attempts: u32,
        /// What the last attempt failed on.
        source: Cause,
    },
    /// The image names a blob that its registry or archive does not have.
    #[error("{digest} is named by the image but missing in {place}")]
    BlobMissing {
        /// The blob.
        digest: Digest,
        /// The registry or archive.
        place: String,
    },
    /// The image is not made for the platform.
    #[error("there is no image for {wanted}, only for {}", list(offered))]
    PlatformMissing {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms that the image is made for.
        offered: Vec<Platform>,
    },
    /// A manifest, config or layer is of a kind that cannot be used.
    #[error("{digest} has the unsupported media type {media_type:?}")]
    UnsupportedMediaType {
        /// The manifest, config or layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// The manifest is not that of an image but of something else.
    #[error("{digest} is no image but an artifact of type {artifact_type:?}")]
    Artifact {
        /// The manifest.
        digest: Digest,
        /// What it says that it is.
        artifact_type: String,
    },
    /// A digest other than SHA-256 names something that is needed.
    #[error("{digest:?} is not a SHA-256 digest")]
    UnsupportedDigest {
        /// The digest as given.
        digest: String,
    },
    /// A document is larger than any honest one.
    #[error("the {document} is larger than {limit} bytes")]
    TooLarge {
        /// What was read.
        document: Document,
        /// Bytes allowed.
        limit: u64,
    },
    /// A document is not what its kind demands.
    #[error("the {document} {digest} is malformed")]
    InvalidDocument {
        /// What was read.
        document: Document,
        /// The document's own digest.
        digest: Digest,
        /// What its parser stumbled on.
        source: serde_json::Error,
    },
    /// The image has more layers than can be used.
    #[error("the image has {count} layers, more than {limit}")]
    TooManyLayers {
        /// Layers in the manifest.
        count: usize,
        /// Layers allowed.
        limit: usize,
    },
    /// The config does not describe the layers that the manifest lists.
    #[error("the manifest lists {layers} layers where the config has {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the config.
        diff_ids: usize,
    },
    /// Indexes refer to indexes again and again.
    #[error("the index {digest} is nested too deeply")]
    IndexTooDeep {
        /// The index at which following stopped.
        digest: Digest,
    },
    /// An archive or layout folder is not what it should be.
    #[error("{} is not a usable image archive", path.display())]
    Archive {
        /// The archive or folder.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveProblem,
    },
    /// Docker's configuration file cannot be used.
    #[error("{} is malformed", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// What its parser stumbled on.
        source: Cause,
    },
    /// A credential helper did not do its work.
    #[error("the credential helper {helper} failed for {registry}")]
    CredentialHelper {
        /// The program.
        helper: String,
        /// The registry whose credentials were asked for.
        registry: String,
        /// What went wrong.
        source: HelperFault,
    },
    /// TLS cannot be set up on this host.
    #[error("TLS cannot be set up; are CA certificates installed (package ca-certificates)")]
    Tls {
        /// What the TLS library stumbled on.
        source: Cause,
    },
    /// A file operation failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// The operation, a verb.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// What is wrong with the name of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceProblem {
    /// There is no name.
    #[error("the name is empty")]
    Empty,
    /// It is not of the form `[host[:port]/]name[:tag][@digest]`.
    #[error("it is not of the form [host[:port]/]name[:tag][@sha256:digest]")]
    Format,
    /// The name has capital letters.
    #[error("the repository name has capital letters")]
    Uppercase,
    /// The name is too long.
    #[error("the repository name is longer than 255 characters")]
    TooLong,
    /// The digest is not SHA-256 in 64 lower-case hexadecimal digits.
    #[error("the digest is not sha256: and 64 lower-case hexadecimal digits")]
    Digest,
}

/// Why a token service gave no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// It answered with an HTTP status that says neither yes nor no.
    #[error("it answered with HTTP status {status}")]
    Status {
        /// The HTTP status.
        status: u16,
    },
    /// It cannot be reached.
    #[error("it cannot be reached")]
    Unreachable {
        /// What the connection failed on.
        source: Cause,
    },
    /// Its answer holds no usable token.
    #[error("its answer holds no usable token")]
    Reply,
    /// Its address is not one that credentials may be sent to.
    #[error("its address is not one that can be trusted with credentials")]
    Address,
}

/// Why a credential helper gave no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperFault {
    /// It cannot be run.
    #[error("it cannot be run")]
    Run {
        /// The system's error.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("it ended with {status}: {message}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The start of what it wrote.
        message: String,
    },
    /// What it wrote are no credentials.
    #[error("what it wrote are no credentials")]
    Reply,
}

/// What is wrong with an archive or layout folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// It has neither the files of an OCI layout nor of a `docker save` archive.
    #[error("it is neither an OCI layout nor a docker save archive")]
    Unrecognized,
    /// Its version of the layout is unknown.
    #[error("its image layout version {version:?} is unknown")]
    LayoutVersion {
        /// The version it states.
        version: String,
    },
    /// An entry's path is absolute or leads out of the archive.
    #[error("the path {name:?} leads out of it")]
    Escape {
        /// The path.
        name: String,
    },
    /// Something is a link, a device or a folder where a file must be.
    #[error("{name:?} is not a regular file")]
    NotAFile {
        /// The path.
        name: String,
    },
    /// A file that another file names is not there.
    #[error("{name:?} is missing")]
    Missing {
        /// The path.
        name: String,
    },
    /// There are more entries than in any honest archive.
    #[error("it has more than {limit} entries")]
    TooManyEntries {
        /// Entries allowed.
        limit: usize,
    },
    /// It cannot be read to its end.
    #[error("it is damaged or cut off")]
    Unreadable {
        /// What reading stumbled on.
        source: io::Error,
    },
    /// It holds no image of that name.
    #[error("it holds no image named {wanted:?}, only {}", list(offered))]
    NoSuchTag {
        /// The name asked for.
        wanted: String,
        /// The names it has.
        offered: Vec<String>,
    },
    /// It holds several images, and none was named.
    #[error("it holds several images; name one of {}", list(offered))]
    Ambiguous {
        /// The names it has.
        offered: Vec<String>,
    },
    /// It holds no image.
    #[error("it holds no image")]
    Empty,
}

/// The kinds of small documents that an image is described by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// A manifest or an index.
    Manifest,
    /// An image's config.
    Config,
    /// The index of a layout, or the manifest of a `docker save` archive.
    ArchiveIndex,
    /// A note about what a tag stood for.
    Tag,
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::ArchiveIndex => "archive's index",
            Self::Tag => "cached tag",
        })
    }
}

/// What an offline fetch lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingBlob {
    /// The image was never fetched by that name, so that nothing is known of it.
    Manifest,
    /// One of the image's blobs.
    Blob(Digest),
}

impl std::fmt::Display for MissingBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest => f.write_str("its manifest"),
            Self::Blob(digest) => digest.fmt(f),
        }
    }
}

impl Error {
    /// An [`Error::Io`], made where the system's error is caught.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}

fn with_or_without(credentials_sent: bool) -> &'static str {
    if credentials_sent { "with the credentials sent" } else { "without credentials" }
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
