//! Parcels: bytes of any number and open files, which follow a message on its stream.
//!
//! | field | size | content |
//! |---|---|---|
//! | length | `u64` | number of bytes |
//! | count | `u32` | number of files |
//! | bytes | length | |
//! | files | one zero byte for each 64 files | the descriptors come along with it |

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use supermachine_formats::codec::Put;

use crate::os::{self, MAX_DESCRIPTORS};

/// Bytes and open files.
#[derive(Debug)]
pub(crate) struct Parcel<F = OwnedFd> {
    pub(super) bytes: Vec<u8>,
    pub(super) files: Vec<F>,
}

impl<F: AsFd> Parcel<F> {
    pub(super) fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        let mut head = Vec::new();
        head.put_u64(self.bytes.len() as u64);
        head.put_count(self.files.len());
        stream.write_all(&head)?;
        stream.write_all(&self.bytes)?;
        for group in self.files.chunks(MAX_DESCRIPTORS) {
            let group: Vec<BorrowedFd<'_>> = group.iter().map(AsFd::as_fd).collect();
            os::send_with_descriptors(stream, &[0], &group)?;
        }
        Ok(())
    }
}

impl Parcel {
    /// Receives a parcel of at most this many bytes and files. Bytes take memory as they arrive.
    pub(super) fn receive(
        stream: &mut UnixStream,
        max_bytes: u64,
        max_files: usize,
    ) -> io::Result<Self> {
        let (mut length, mut count) = ([0; 8], [0; 4]);
        stream.read_exact(&mut length)?;
        stream.read_exact(&mut count)?;
        let length = u64::from_le_bytes(length);
        let count = usize::try_from(u32::from_le_bytes(count)).unwrap_or(usize::MAX);
        if length > max_bytes || count > max_files {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::new();
        stream.take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut files = Vec::new();
        while files.len() < count {
            let (read, mut group) = os::receive_with_descriptors(stream, &mut [0])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A receiver without free descriptors gets fewer than were sent.
            if group.len() != MAX_DESCRIPTORS.min(count - files.len()) {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            files.append(&mut group);
        }
        Ok(Self { bytes, files })
    }
}
