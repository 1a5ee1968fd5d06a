//! Bounded reads of an archive's files.

use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use supermachine_formats::Digest;

use crate::oci::cache::BlobWriter;
use crate::oci::error::{ArchiveProblem, Document, Error};
use crate::oci::manifest::MAX_DOCUMENT;

/// Why a file of an archive could not be read.
pub(crate) enum ReadFault {
    Archive(io::Error),
    TooLarge,
    Cache(Error),
}

impl ReadFault {
    pub(crate) fn into_error(self, archive: &Path) -> Error {
        match self {
            Self::Archive(source) => Error::Archive {
                path: archive.to_owned(),
                source: ArchiveProblem::Unreadable { source },
            },
            Self::TooLarge => {
                Error::TooLarge { document: Document::ArchiveIndex, limit: MAX_DOCUMENT }
            }
            Self::Cache(error) => error,
        }
    }
}

/// Reads a document.
pub(crate) fn read_small(content: impl Read) -> Result<Vec<u8>, ReadFault> {
    let mut bytes = Vec::new();
    content.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(ReadFault::Archive)?;
    let is_small = u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_DOCUMENT);
    if is_small { Ok(bytes) } else { Err(ReadFault::TooLarge) }
}

/// Copies all of `content`. Reports the bytes copied so far.
pub(crate) fn copy(
    mut content: impl Read,
    writer: &mut BlobWriter,
    progress: impl Fn(u64),
) -> Result<(), ReadFault> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ReadFault::Archive(error)),
        };
        writer.write(&buffer[..length]).map_err(ReadFault::Cache)?;
        progress(writer.written());
    }
}

/// Parses an archive's own JSON.
pub(crate) fn parse_index<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|source| Error::InvalidDocument {
        document: Document::ArchiveIndex,
        digest: Digest::of(json),
        source,
    })
}
