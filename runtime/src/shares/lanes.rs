//! A folder's server in another process than its device: between a worker and its client.
//!
//! Each lane is a stream on which one question at a time is asked and answered. Neither end trusts the
//! other: lengths are bounded before they take memory.
//!
//! | field of a question | size | content |
//! |---|---|---|
//! | kind | `u8` | 0 a request of the guest, 1 what the guest knows |
//! | room | `u32` | the most bytes of the answer to a request |
//! | length | `u32` | of the request; 0 for kind 1 |
//! | request | length | |
//!
//! An answer is a `u32` length and as many bytes. What the guest knows is a list of nodes, each `id` `u64`,
//! `parent` `u64`, `name` bytes, `lookups` `u64`, and a list of handles, each `id` `u64`, `node` `u64`, `flags`
//! `u32`, `is_folder` `bool`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::Builder;

use supermachine_formats::codec::{DecodeError, Put, Reader};
use supermachine_formats::snapshot::device::{ShareHandle, ShareNode};
use supermachine_vmm::{FileServer, Known};

/// Lanes of a folder: as many as its device asks at once.
pub(crate) const LANES: usize = 2;
const REQUEST: u8 = 0;
const KNOWN: u8 = 1;
/// The longest request and answer to one.
const MAX_MESSAGE: usize = 2 << 20;
/// The longest list of what a guest knows.
const MAX_KNOWN: usize = 512 << 20;
/// Id, parent, length of the name, lookups.
const NODE_SIZE: usize = 28;
/// Id, node, flags, kind.
const HANDLE_SIZE: usize = 21;
/// What comes before a request: its length, what it is, its id.
const FUSE_HEADER: usize = 16;
/// The requests without an answer: those that forget.
const UNANSWERED: [u32; 2] = [2, 42];
const EIO: i32 = 5;

/// The device's side.
#[derive(Debug)]
pub(crate) struct Lanes(Vec<Mutex<UnixStream>>);

impl Lanes {
    pub(crate) fn new(streams: Vec<UnixStream>) -> Self {
        Self(streams.into_iter().map(Mutex::new).collect())
    }

    fn ask(&self, kind: u8, room: usize, request: &[u8], most: usize) -> io::Result<Vec<u8>> {
        let mut lane = self.free_lane().ok_or(io::ErrorKind::NotConnected)?;
        let mut head = vec![kind];
        head.put_u32(u32::try_from(room).unwrap_or(u32::MAX));
        head.put_count(request.len());
        lane.write_all(&head)?;
        lane.write_all(request)?;
        read_message(&mut lane, most)
    }

    /// Waits for the first if none is free.
    fn free_lane(&self) -> Option<MutexGuard<'_, UnixStream>> {
        for lane in &self.0 {
            match lane.try_lock() {
                Ok(free) => return Some(free),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        Some(self.0.first()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FileServer for Lanes {
    fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        let answer = self.ask(REQUEST, room, request, MAX_MESSAGE);
        answer.unwrap_or_else(|_| refusal(request))
    }

    fn known(&self) -> Known {
        // Without its server, a guest knows nothing that it could find again.
        let known = self.ask(KNOWN, 0, &[], MAX_KNOWN).unwrap_or_default();
        read_known(&known).unwrap_or_default()
    }
}

/// Answers what the device asks on a lane, on a thread of its own that ends with the lane.
///
/// # Errors
/// The host has no threads left.
pub(crate) fn serve(server: Arc<dyn FileServer>, lane: UnixStream) -> io::Result<()> {
    let answer = move || {
        let mut lane = lane;
        while answer_one(server.as_ref(), &mut lane).is_ok() {}
    };
    Builder::new().name("sm-lane".into()).spawn(answer).map(drop)
}

fn answer_one(server: &dyn FileServer, lane: &mut UnixStream) -> io::Result<()> {
    let (mut kind, mut room) = ([0; 1], [0; 4]);
    lane.read_exact(&mut kind)?;
    lane.read_exact(&mut room)?;
    let room = usize::try_from(u32::from_le_bytes(room)).unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE);
    let request = read_message(lane, MAX_MESSAGE)?;
    let answer = match kind {
        [REQUEST] => server.answer(&request, room),
        [KNOWN] => known_bytes(&server.known()),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut head = Vec::new();
    head.put_count(answer.len());
    lane.write_all(&head)?;
    lane.write_all(&answer)
}

/// Reads a length and as many bytes, which take memory as they arrive.
fn read_message(lane: &mut UnixStream, most: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    lane.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::with_capacity(length.min(MAX_MESSAGE));
    lane.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// The answer of a server that is gone.
fn refusal(request: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(request);
    let _ = reader.u32("length");
    let (Ok(operation), Ok(unique)) = (reader.u32("operation"), reader.u64("unique")) else {
        return Vec::new();
    };
    if UNANSWERED.contains(&operation) {
        return Vec::new();
    }
    let mut answer = Vec::new();
    answer.put_count(FUSE_HEADER);
    answer.put(&(-EIO).to_le_bytes());
    answer.put_u64(unique);
    answer
}

fn known_bytes(known: &Known) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_list(&known.nodes, |out, node| {
        out.put_u64(node.id);
        out.put_u64(node.parent);
        out.put_byte_string(&node.name);
        out.put_u64(node.lookups);
    });
    out.put_list(&known.handles, |out, handle| {
        out.put_u64(handle.id);
        out.put_u64(handle.node);
        out.put_u32(handle.flags);
        out.put_bool(handle.is_folder);
    });
    out
}

fn read_known(bytes: &[u8]) -> Result<Known, DecodeError> {
    let mut reader = Reader::new(bytes);
    let nodes = reader.list("nodes", usize::MAX, NODE_SIZE, |reader| {
        Ok(ShareNode {
            id: reader.u64("id")?,
            parent: reader.u64("parent")?,
            name: reader.byte_string("name", MAX_MESSAGE)?.to_vec(),
            lookups: reader.u64("lookups")?,
        })
    })?;
    let handles = reader.list("handles", usize::MAX, HANDLE_SIZE, |reader| {
        Ok(ShareHandle {
            id: reader.u64("id")?,
            node: reader.u64("node")?,
            flags: reader.u32("flags")?,
            is_folder: reader.bool("folder")?,
        })
    })?;
    reader.finish()?;
    Ok(Known { nodes, handles })
}
