//! What can go wrong between layers and image.
//!
//! Owns the error types of the root file system. Each level adds only what it knows: the
//! layer's digest, then the entry's path or the place in the archive, then the rule.

use std::io;
use std::path::PathBuf;

use supermachine_formats::Digest;

/// The image could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer is damaged, or asks for something that an image cannot hold.
    #[error("layer {layer} cannot be applied")]
    Layer {
        /// The digest of the compressed blob.
        layer: Digest,
        /// What is wrong with it.
        source: LayerError,
    },
    /// A layer's uncompressed bytes are not those that the image's configuration names.
    #[error("layer {layer} uncompresses to {found}, but the image names {expected}")]
    DiffId {
        /// The digest of the compressed blob.
        layer: Digest,
        /// The digest of the uncompressed bytes that the configuration names.
        expected: Digest,
        /// The digest of the bytes that came out.
        found: Digest,
    },
    /// A file of the host could not be used.
    #[error("cannot {op} {}", path.display())]
    File {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The stacked layers need a larger image than is allowed.
    #[error("the image would take {size} bytes, more than the {limit} allowed")]
    ImageTooLarge {
        /// What the layers need.
        size: u64,
        /// What is allowed.
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
        /// The answer of the system or of the decompressor.
        source: io::Error,
    },
    /// The contents of a file could not be put aside.
    #[error("the contents of {path} cannot be written to the scratch file")]
    Spool {
        /// The entry whose contents were being written.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The archive ends inside a header or inside a file's contents.
    #[error("the archive ends in the middle of an entry, at byte {offset}")]
    Truncated {
        /// Where the uncompressed archive ends.
        offset: u64,
    },
    /// A tar header breaks the format.
    #[error("the header at byte {offset} is malformed: {problem}")]
    Header {
        /// Where the header starts in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// An entry cannot become part of the image.
    #[error("entry {path:?} is refused")]
    Entry {
        /// The entry's name as the archive gives it.
        path: String,
        /// The rule that it breaks.
        source: EntryError,
    },
    /// The layer uncompresses to more than is allowed.
    #[error("it uncompresses to more than the {limit} bytes allowed")]
    TooLarge {
        /// What is allowed.
        limit: u64,
    },
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// The sum over the header is not the one that it states.
    #[error("its checksum does not match")]
    Checksum,
    /// A numeric field holds no number, or one out of range.
    #[error("its field {0} holds no valid number")]
    Number(&'static str),
    /// Pax records that break their own format.
    #[error("its pax records are damaged")]
    Pax,
    /// A long name or pax header of more than a mebibyte.
    #[error("its extension takes {0} bytes")]
    ExtensionTooLarge(u64),
    /// An extension header that nothing follows.
    #[error("it describes an entry that does not follow")]
    Orphan,
    /// One block of zeros, which ends nothing, with more entries after it.
    #[error("a single block of zeros stands before it")]
    LoneZeroBlock,
    /// A map of a sparse file that overlaps, overflows or disagrees with the file's size.
    #[error("its map of a sparse file is inconsistent")]
    SparseMap,
    /// A type of entry that no container layer uses.
    #[error("its type {0:#04x} is not supported")]
    Type(u8),
}

/// A rule that an entry breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A `..` component.
    #[error("its path leads out of the root")]
    OutsideRoot,
    /// A hard link to a path with a `..` component.
    #[error("its link leads out of the root")]
    LinkOutsideRoot,
    /// A NUL byte in a name.
    #[error("its name holds a NUL byte")]
    NulInName,
    /// A component longer than Linux takes.
    #[error("a component of its path takes {length} bytes, more than the 255 allowed")]
    NameTooLong {
        /// The component's length.
        length: usize,
    },
    /// A path, or a symbolic link's target, longer than Linux takes.
    #[error("its path or target takes {length} bytes, more than the 4095 allowed")]
    PathTooLong {
        /// The length.
        length: usize,
    },
    /// The root directory given as something else than a directory.
    #[error("the root can only be a directory")]
    RootNotDirectory,
    /// A parent that the same layer made as something else than a directory.
    #[error("its parent is not a directory")]
    ParentNotDirectory,
    /// More symbolic links on the way than Linux follows.
    #[error("its path meets too many symbolic links")]
    LinkLoop,
    /// A hard link to a path that does not exist.
    #[error("its link names nothing that exists")]
    LinkTargetMissing,
    /// A hard link to a directory.
    #[error("its link names a directory")]
    LinkToDirectory,
    /// A symbolic link without a target.
    #[error("its target is empty")]
    EmptyTarget,
    /// A whiteout of nothing, of `.`, or of `..`, or a whiteout that holds entries.
    #[error("it is not a valid whiteout")]
    InvalidWhiteout,
    /// Extended attributes beyond what one inode can hold.
    #[error("its extended attributes take {size} bytes, more than the {limit} allowed")]
    AttributesTooLarge {
        /// What they take.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A file larger than is allowed.
    #[error("its size is {size} bytes, more than the {limit} allowed")]
    FileTooLarge {
        /// The file's size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The layers hold more files than is allowed.
    #[error("it is one more file than the {limit} allowed")]
    TooManyFiles {
        /// What is allowed.
        limit: u32,
    },
    /// The names and attributes of all layers take more than is allowed.
    #[error("names and attributes take more than the {limit} bytes allowed")]
    TooMuchMetadata {
        /// What is allowed.
        limit: u64,
    },
    /// The contents of all files take more than is allowed.
    #[error("the contents of all files take more than the {limit} bytes allowed")]
    TooMuchContent {
        /// What is allowed.
        limit: u64,
    },
}
