//! Why a pack was refused.

use std::io;
use std::path::PathBuf;

use supermachine_formats::Digest;
use supermachine_formats::pack::IndexError;
use supermachine_formats::snapshot::SnapshotError;

/// Why a pack was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// There is nothing at this path.
    #[error("no snapshot at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Neither an OCI image-layout folder nor an archive of one.
    #[error("{path} is not a pack: {what}")]
    NotAPack {
        /// The file or folder.
        path: PathBuf,
        /// What tells so.
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
    /// There are several snapshots, and no name was given.
    #[error("{path} holds {count} snapshots, and none was named")]
    Ambiguous {
        /// The file or folder.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A part is not there.
    #[error("{section} is missing: no blob {digest}")]
    MissingBlob {
        /// The part.
        section: &'static str,
        /// The blob that holds it.
        digest: Digest,
    },
    /// A part has another size than it should have.
    #[error("{section} has {found} bytes instead of {expected}: blob {digest}")]
    Size {
        /// The part.
        section: &'static str,
        /// The blob that holds it.
        digest: Digest,
        /// The size that is told.
        expected: u64,
        /// The size that it has.
        found: u64,
    },
    /// A part is larger than any can be.
    #[error("{section} of {size} bytes is larger than {limit}")]
    TooLarge {
        /// The part.
        section: &'static str,
        /// Its size.
        size: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// A part is not what its digest says.
    #[error("{section} is damaged: blob {digest} has digest {found}")]
    Damaged {
        /// The part.
        section: &'static str,
        /// The digest that it should have.
        digest: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A chunk is not what its digest says.
    #[error("chunks are damaged: {what} at byte {offset} of blob {blob}")]
    Chunk {
        /// The blob that holds it.
        blob: Digest,
        /// Where in the blob it begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no memory to decompress with.
    #[error("cannot prepare to decompress")]
    Decompressor {
        /// The operating system's answer.
        source: io::Error,
    },
    /// A document is not JSON.
    #[error("{section} is not JSON")]
    Json {
        /// The document.
        section: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A document is not of its form.
    #[error("{section} has {what}")]
    Document {
        /// The document.
        section: &'static str,
        /// What it has.
        what: &'static str,
    },
    /// The artifact is something else than a snapshot.
    #[error("not a snapshot but {found}")]
    ArtifactType {
        /// The type that it has.
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
    /// What a snapshot would be made from cannot be put into one index.
    #[error("index of the new snapshot would not be readable")]
    Composed {
        /// What would be wrong with it.
        source: IndexError,
    },
    /// Two parts contradict each other.
    #[error("snapshot has {what}")]
    Inconsistent {
        /// What it has.
        what: &'static str,
    },
    /// The archive is not a tar, or is cut off.
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
    #[error("cannot {operation} {path}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}
