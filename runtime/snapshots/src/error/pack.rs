//! Why a pack was refused.

use std::io;
use std::path::PathBuf;

use supermachine_formats::Digest;
use supermachine_formats::pack::IndexError;
use supermachine_formats::snapshot::SnapshotError;
use supermachine_vmm::file_failure;

/// Why a pack was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// There is nothing at this path.
    #[error("no snapshot at {path}")]
    Missing {
        /// The path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Neither an OCI image-layout folder nor an archive of one.
    #[error("{path} is not a pack: {what}")]
    NotAPack {
        /// The file or folder.
        path: PathBuf,
        /// What shows that.
        what: &'static str,
    },
    /// There is no snapshot of this name.
    #[error("no snapshot {name} in {path}")]
    NoSuchName {
        /// The name.
        name: String,
        /// The file or folder.
        path: PathBuf,
    },
    /// There are several snapshots; name one.
    #[error("{path} holds {count} snapshots; name one")]
    Ambiguous {
        /// The file or folder.
        path: PathBuf,
        /// Their number.
        count: usize,
    },
    /// A part is missing.
    #[error("{section} is missing: no blob {digest}")]
    MissingBlob {
        /// The part.
        section: &'static str,
        /// The blob that holds it.
        digest: Digest,
    },
    /// A part has the wrong size.
    #[error("{section} has {found} bytes instead of {expected}: blob {digest}")]
    Size {
        /// The part.
        section: &'static str,
        /// The blob that holds it.
        digest: Digest,
        /// The expected size, in bytes.
        expected: u64,
        /// The actual size, in bytes.
        found: u64,
    },
    /// A part exceeds its limit.
    #[error("{section} of {size} bytes is larger than {limit}")]
    TooLarge {
        /// The part.
        section: &'static str,
        /// Its size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A part does not match its digest.
    #[error("{section} is damaged: blob {digest} has digest {found}")]
    Damaged {
        /// The part.
        section: &'static str,
        /// The expected digest.
        digest: Digest,
        /// The actual digest.
        found: Digest,
    },
    /// A chunk does not match its digest.
    #[error("chunks are damaged: {what} at byte {offset} of blob {blob}")]
    Chunk {
        /// The blob that holds it.
        blob: Digest,
        /// Its offset in the blob, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no memory to decompress with.
    #[error("cannot prepare to decompress")]
    Decompressor {
        /// The operating system's error.
        source: io::Error,
    },
    /// A document is not JSON.
    #[error("{section} is not JSON")]
    Json {
        /// The document.
        section: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// A document has the wrong shape.
    #[error("{section} has {what}")]
    Document {
        /// The document.
        section: &'static str,
        /// What it has instead.
        what: &'static str,
    },
    /// The artifact is not a snapshot.
    #[error("not a snapshot but {found}")]
    ArtifactType {
        /// Its type.
        found: String,
    },
    /// The state file is damaged or of another version.
    #[error("state of snapshot {digest} cannot be used")]
    State {
        /// The snapshot.
        digest: Digest,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// The index is damaged or of another version.
    #[error("index of snapshot {digest} cannot be used")]
    Index {
        /// The snapshot.
        digest: Digest,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The parts of a new snapshot do not fit one index.
    #[error("index of the new snapshot would not be readable")]
    Composed {
        /// What would be wrong with it.
        source: IndexError,
    },
    /// Two parts disagree.
    #[error("snapshot has {what}")]
    Inconsistent {
        /// What it has instead.
        what: &'static str,
    },
    /// The archive is not a tar file, or is truncated.
    #[error("archive {path} is damaged at byte {offset}: {what}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A file operation failed.
    #[error("{}", file_failure(operation, path, source))]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}
