//! Errors between layers and image.
//!
//! Each level adds what it knows: the layer's digest, then the entry's path or the offset in the
//! archive, then the rule.

use std::io;
use std::path::PathBuf;

use supermachine_formats::Digest;
use supermachine_vmm::file_failure;

/// The image could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer is damaged, or has content that an image cannot represent.
    #[error("layer {layer} cannot be applied")]
    Layer {
        /// The digest of the compressed blob.
        layer: Digest,
        /// What is wrong with it.
        source: LayerError,
    },
    /// A layer's uncompressed content does not match the image's config.
    #[error("layer {layer} uncompresses to {found}, but the config names {expected}")]
    DiffId {
        /// The digest of the compressed blob.
        layer: Digest,
        /// The digest in the config.
        expected: Digest,
        /// The digest of the uncompressed content.
        found: Digest,
    },
    /// A file of the host could not be used.
    #[error("{}", file_failure(op, path, source))]
    File {
        /// The operation, a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The layers need an image larger than allowed.
    #[error("the image would take {size} bytes, more than the {limit} allowed")]
    ImageTooLarge {
        /// The size needed, in bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
}

/// A layer cannot be read or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The blob could not be read or uncompressed.
    #[error("its bytes cannot be read or uncompressed")]
    Read {
        /// The error of the system or the decompressor.
        source: io::Error,
    },
    /// The content of a file could not be spooled.
    #[error("the contents of {path} cannot be written to the scratch file")]
    Spool {
        /// The entry.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The archive is truncated within an entry.
    #[error("the archive is truncated within an entry, at byte {offset}")]
    Truncated {
        /// The size of the uncompressed archive.
        offset: u64,
    },
    /// A tar header is malformed.
    #[error("the header at byte {offset} is malformed: {problem}")]
    Header {
        /// The header's offset in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// An entry is invalid.
    #[error("entry {path:?} is refused")]
    Entry {
        /// The entry's name in the archive.
        path: String,
        /// The rule that it breaks.
        source: EntryError,
    },
    /// The uncompressed layer is larger than allowed.
    #[error("it uncompresses to more than the {limit} bytes allowed")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// The header's checksum does not match.
    #[error("its checksum does not match")]
    Checksum,
    /// A numeric field has no number, or one out of range.
    #[error("its field {0} has no valid number")]
    Number(&'static str),
    /// The pax records are malformed.
    #[error("its pax records are damaged")]
    Pax,
    /// A long name or pax header is larger than a mebibyte.
    #[error("its extension takes {0} bytes")]
    ExtensionTooLarge(u64),
    /// No entry follows an extension header.
    #[error("no entry follows it")]
    Orphan,
    /// A single block of zeros precedes further entries; two would be the end of the archive.
    #[error("a single block of zeros precedes it")]
    LoneZeroBlock,
    /// The map of a sparse file overlaps, overflows or disagrees with the file's size.
    #[error("its map of a sparse file is inconsistent")]
    SparseMap,
    /// The entry type is not supported.
    #[error("its type {0:#04x} is not supported")]
    Type(u8),
}

/// Why an entry is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// `..` leads out of the root.
    #[error("its path leads out of the root")]
    OutsideRoot,
    /// `..` in a hard link's target leads out of the root.
    #[error("its link leads out of the root")]
    LinkOutsideRoot,
    /// A name contains a NUL byte.
    #[error("its name contains a NUL byte")]
    NulInName,
    /// A component is longer than Linux allows.
    #[error("a component of its path takes {length} bytes, more than the 255 allowed")]
    NameTooLong {
        /// The component's length.
        length: usize,
    },
    /// A path or a symbolic link's target is longer than Linux allows.
    #[error("its path or target takes {length} bytes, more than the 4095 allowed")]
    PathTooLong {
        /// The length.
        length: usize,
    },
    /// An entry makes the root something other than a directory.
    #[error("the root can only be a directory")]
    RootNotDirectory,
    /// The same layer made a parent something other than a directory.
    #[error("its parent is not a directory")]
    ParentNotDirectory,
    /// The path has more symbolic links than Linux follows.
    #[error("its path has too many symbolic links")]
    LinkLoop,
    /// The hard link's target does not exist.
    #[error("its link target does not exist")]
    LinkTargetMissing,
    /// The hard link's target is a directory.
    #[error("its link target is a directory")]
    LinkToDirectory,
    /// The symbolic link's target is empty.
    #[error("its target is empty")]
    EmptyTarget,
    /// A whiteout of nothing, of `.` or of `..`, or one with entries.
    #[error("it is not a valid whiteout")]
    InvalidWhiteout,
    /// The extended attributes exceed what an inode can hold.
    #[error("its extended attributes take {size} bytes, more than the {limit} allowed")]
    AttributesTooLarge {
        /// Their size in bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The file is larger than allowed.
    #[error("its size is {size} bytes, more than the {limit} allowed")]
    FileTooLarge {
        /// The file's size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The layers have more files than allowed.
    #[error("it exceeds the {limit} files allowed")]
    TooManyFiles {
        /// The limit.
        limit: u32,
    },
    /// The names and attributes of all layers exceed the limit.
    #[error("names and attributes take more than the {limit} bytes allowed")]
    TooMuchMetadata {
        /// The limit.
        limit: u64,
    },
    /// The contents of all files exceed the limit.
    #[error("the contents of all files take more than the {limit} bytes allowed")]
    TooMuchContent {
        /// The limit.
        limit: u64,
    },
}
