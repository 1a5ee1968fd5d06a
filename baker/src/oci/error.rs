//! Errors between the name of an image and its verified blobs.
//!
//! Owns the error types of the `oci` module. Each variant carries the facts that a caller needs to
//! react; text from outside is never the only carrier of a fact.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use supermachine_formats::Digest;
use supermachine_snapshots::pack::PackError;
use supermachine_vmm::file_failure;

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
    /// The fetch is offline, and the cache lacks a part of the image.
    #[error("{reference} cannot be fetched offline: {missing} is not in the cache")]
    NotCached {
        /// The image asked for.
        reference: String,
        /// The missing part.
        missing: MissingBlob,
    },
    /// The registry, or its token service, refused the request, with or without credentials.
    #[error(
        "{registry} refused access {}{}",
        with_or_without(*credentials_sent),
        reason_in(message.as_ref())
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// Whether credentials were sent, or the request was anonymous.
        credentials_sent: bool,
        /// The registry's message.
        message: Option<String>,
    },
    /// The registry's token service issued no token.
    #[error("the token service {service} of {registry} issued no token")]
    TokenService {
        /// The registry that requires a token.
        registry: String,
        /// The service's address, as the registry gave it.
        service: String,
        /// Why there is no token.
        source: TokenFault,
    },
    /// The registry could not be reached.
    #[error("the registry {registry} cannot be reached")]
    Unreachable {
        /// The registry.
        registry: String,
        /// Why the connection failed.
        source: Cause,
    },
    /// The registry answered with an unexpected HTTP status.
    #[error(
        "{registry} answered a request for {object} with HTTP status {status}{}{}",
        reason_in(message.as_ref()),
        pause_in(*retry_after)
    )]
    Registry {
        /// The registry.
        registry: String,
        /// The tag or digest requested.
        object: String,
        /// The HTTP status.
        status: u16,
        /// The registry's message.
        message: Option<String>,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// The content does not match its digest.
    #[error("the content of {digest} is damaged: its digest is {found}")]
    DigestMismatch {
        /// The expected digest.
        digest: Digest,
        /// The digest of the content.
        found: Digest,
    },
    /// The content does not match the size in its descriptor.
    #[error(
        "{digest} has {found} bytes{}, but its descriptor says {expected}",
        if found > expected { " or more" } else { "" }
    )]
    SizeMismatch {
        /// The expected digest.
        digest: Digest,
        /// Bytes according to its descriptor.
        expected: u64,
        /// Bytes read.
        found: u64,
    },
    /// The connection broke in the middle of a blob, in every attempt.
    #[error("{digest} stopped at byte {received} of {size} in the last of {attempts} attempts")]
    Interrupted {
        /// The blob.
        digest: Digest,
        /// Bytes received.
        received: u64,
        /// Bytes of the whole blob.
        size: u64,
        /// Attempts made.
        attempts: u32,
        /// Why the last attempt failed.
        source: Cause,
    },
    /// The registry or archive lacks a blob of the image.
    #[error("{place} lacks {digest}, which is part of the image")]
    BlobMissing {
        /// The blob.
        digest: Digest,
        /// The registry or archive.
        place: String,
    },
    /// The image does not support the platform.
    #[error("there is no image for {wanted}, {}", only_for(offered))]
    PlatformMissing {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms that the image supports.
        offered: Vec<Platform>,
    },
    /// A manifest, config or layer has an unsupported media type.
    #[error("{digest} has the unsupported media type {media_type:?}{}", remedy_for(media_type))]
    UnsupportedMediaType {
        /// The manifest, config or layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// The manifest is that of another artifact.
    #[error("{digest} is not an image but an artifact of type {artifact_type:?}")]
    Artifact {
        /// The manifest.
        digest: Digest,
        /// Its artifact type.
        artifact_type: String,
    },
    /// A needed blob is named by a digest other than SHA-256.
    #[error("{digest:?} is not a SHA-256 digest")]
    UnsupportedDigest {
        /// The digest as given.
        digest: String,
    },
    /// A document is too large.
    #[error("the {document} is larger than {limit} bytes")]
    TooLarge {
        /// The document.
        document: Document,
        /// Bytes allowed.
        limit: u64,
    },
    /// A document is malformed.
    #[error("the {document} {digest} is malformed")]
    InvalidDocument {
        /// The document.
        document: Document,
        /// The document's own digest.
        digest: Digest,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The image has too many layers.
    #[error("the image has {count} layers, more than {limit}")]
    TooManyLayers {
        /// Layers in the manifest.
        count: usize,
        /// Layers allowed.
        limit: usize,
    },
    /// Config and manifest disagree about the number of layers.
    #[error("the manifest lists {layers} layers, but the config lists {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the config.
        diff_ids: usize,
    },
    /// Indexes are nested too deeply.
    #[error("the index {digest} is nested too deeply")]
    IndexTooDeep {
        /// The deepest index read.
        digest: Digest,
    },
    /// The path of an image does not exist.
    #[error("no such file: {}", path.display())]
    NoSuchFile {
        /// The path.
        path: PathBuf,
    },
    /// An archive or layout folder is unusable.
    #[error("{} is not a usable image archive", path.display())]
    Archive {
        /// The archive or folder.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveProblem,
    },
    /// A file of credentials is malformed.
    #[error("{} is malformed", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Cause,
    },
    /// A credential helper failed.
    #[error("the credential helper {helper} failed for {registry}")]
    CredentialHelper {
        /// The program.
        helper: String,
        /// The registry.
        registry: String,
        /// What went wrong.
        source: HelperFault,
    },
    /// The user's configuration blocks the registry.
    #[error("{reference} is blocked by the entry {prefix:?} of registries.conf")]
    Blocked {
        /// The image.
        reference: String,
        /// The prefix of the entry.
        prefix: String,
    },
    /// Credentials are given for a short name that several registries may have.
    #[error(
        "{name} may be an image of {}: write the registry before the name to use credentials",
        list(registries)
    )]
    SeveralRegistries {
        /// The name.
        name: String,
        /// The registries.
        registries: Vec<String>,
    },
    /// The address of a proxy cannot be used.
    #[error(
        "the proxy {address:?} cannot be used; it comes from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
    )]
    Proxy {
        /// The address, without user and password.
        address: String,
        /// What is wrong with it.
        source: ProxyProblem,
    },
    /// A file that configures registries is malformed.
    #[error("{} is malformed", path.display())]
    RegistryFile {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Cause,
    },
    /// A file of certificates or keys cannot be used.
    #[error("{} cannot be used for TLS", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// TLS cannot be set up on this host.
    #[error("TLS cannot be set up; are CA certificates installed (package ca-certificates)")]
    Tls {
        /// The TLS library's error.
        source: Cause,
    },
    /// The folder of blobs cannot be used.
    #[error("downloaded blobs cannot be used")]
    Blobs {
        /// Why.
        source: Box<PackError>,
    },
    /// A file operation failed.
    #[error("{}", file_failure(op, path, source))]
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
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The form is not `[host[:port]/]name[:tag][@digest]`.
    #[error("it is not of the form [host[:port]/]name[:tag][@sha256:digest]")]
    Format,
    /// The name begins with a protocol.
    #[error(
        "a protocol is no part of it: write HOST[:PORT]/NAME, and use --insecure for a registry \
         without TLS"
    )]
    Protocol,
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

/// What is wrong with the address of a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyProblem {
    /// It is not an address.
    #[error("it is not of the form http://[USER:PASSWORD@]HOST[:PORT]")]
    Address,
    /// Its protocol is unknown.
    #[error("its protocol {scheme:?} is not http, https, socks4 or socks5")]
    Scheme {
        /// The protocol.
        scheme: String,
    },
}

/// Why a token service issued no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// It answered with an unexpected HTTP status.
    #[error("it answered with HTTP status {status}{}", reason_in(message.as_ref()))]
    Status {
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: Option<String>,
    },
    /// It cannot be reached.
    #[error("it cannot be reached")]
    Unreachable {
        /// Why the connection failed.
        source: Cause,
    },
    /// Its answer has no usable token.
    #[error("its answer has no usable token")]
    Reply,
    /// Its address is not trusted with credentials.
    #[error("its address is not trusted with credentials")]
    Address,
}

/// Why a credential helper returned no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperFault {
    /// It cannot be run.
    #[error("it cannot be run")]
    Run {
        /// The system's error.
        source: io::Error,
    },
    /// It exited with a failure.
    #[error("it failed with {status}: {message}")]
    Failed {
        /// Its exit status.
        status: ExitStatus,
        /// The start of its output.
        message: String,
    },
    /// Its output has no credentials in it.
    #[error("its output has no credentials in it: {message}")]
    Reply {
        /// The start of its output, unless that may be a secret.
        message: String,
    },
    /// It did not exit in time and was killed.
    #[error("it did not exit within {limit:?} and was killed")]
    TimedOut {
        /// The time allowed.
        limit: Duration,
    },
}

/// What is wrong with an archive or layout folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// It is neither an OCI layout nor a `docker save` archive.
    #[error("it is neither an OCI layout nor a docker save archive")]
    Unrecognized,
    /// Its version of the layout is unknown.
    #[error("its image layout version {version:?} is unknown")]
    LayoutVersion {
        /// The version.
        version: String,
    },
    /// The path of an entry is absolute or leads out of the archive.
    #[error("the path {name:?} leads out of it")]
    Escape {
        /// The path.
        name: String,
    },
    /// An entry is not a regular file.
    #[error("{name:?} is not a regular file")]
    NotAFile {
        /// The path.
        name: String,
    },
    /// A referenced file is missing.
    #[error("{name:?} is missing")]
    Missing {
        /// The path.
        name: String,
    },
    /// It has too many entries.
    #[error("it has more than {limit} entries")]
    TooManyEntries {
        /// Entries allowed.
        limit: usize,
    },
    /// It cannot be read completely.
    #[error("it is damaged or cut off")]
    Unreadable {
        /// The error of the read.
        source: io::Error,
    },
    /// It has no image with that name.
    #[error("it has no image named {wanted:?}, only {}", list(offered))]
    NoSuchTag {
        /// The name asked for.
        wanted: String,
        /// Its names.
        offered: Vec<String>,
    },
    /// It has several images, and the caller named none.
    #[error("it has several images; name one of {}", list(offered))]
    Ambiguous {
        /// Its names.
        offered: Vec<String>,
    },
    /// It has no image.
    #[error("it has no image")]
    Empty,
}

/// The kinds of small documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// A manifest or an index.
    Manifest,
    /// An image's config.
    Config,
    /// The index of a layout, or the manifest of a `docker save` archive.
    ArchiveIndex,
    /// The cached digest of a tag.
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

/// What the cache lacks for an offline fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingBlob {
    /// The manifest: the image was never fetched by that name.
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
    /// Builds an [`Error::Io`] from the system's error.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}

impl From<PackError> for Error {
    /// Translates an error of a folder of blobs.
    fn from(error: PackError) -> Self {
        match error {
            PackError::Io { operation, path, source } => Self::Io { op: operation, path, source },
            PackError::Size { digest, expected, found, .. } => {
                Self::SizeMismatch { digest, expected, found }
            }
            PackError::Damaged { digest, found, .. } => Self::DigestMismatch { digest, found },
            other => Self::Blobs { source: Box::new(other) },
        }
    }
}

fn with_or_without(credentials_sent: bool) -> &'static str {
    if credentials_sent { "with the credentials sent" } else { "without credentials" }
}

fn reason_in(message: Option<&String>) -> String {
    message.map_or_else(String::new, |message| format!(": {message}"))
}

fn pause_in(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |pause| format!("; it asks to wait {} s", pause.as_secs()))
}

fn only_for(offered: &[Platform]) -> String {
    match offered {
        [] => "and its index states no platform".to_owned(),
        offered => format!("only for {}", list(offered)),
    }
}

fn remedy_for(media_type: &str) -> &'static str {
    match media_type {
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
            "; it is of Docker's schema 1: push the image again with a current tool"
        }
        _ => "",
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "unnamed ones".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
