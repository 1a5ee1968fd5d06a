//! The messages between a client and a worker.
//!
//! A client connects and sends [`WorkerRequest::Hello`]; each side closes when the other's version
//! differs from its own. Then each request of the client gets one reply, in order. No message to a
//! worker has a path: what a machine starts from follows as a [`Parcel`](super::parcel::Parcel) of
//! descriptors. Messages are frames as on the agent's streams: `u32` payload length (at most 1 MiB), `u16` kind, `u16` 0,
//! payload. Integers are little-endian, a text is a `u32` length and its UTF-8 bytes.
//!
//! | kind | message | payload | answer |
//! |---|---|---|---|
//! | 0x61 | Hello | `version` `u16` | Hello |
//! | 0x62 | Dial: a new stream to the agent | – | Stream with its descriptor, or Refused |
//! | 0x63 | Look: why streams end, if that is known | – | Seen |
//! | 0x64 | Console | – | Console |
//! | 0x65 | Usage | – | Usage |
//! | 0x66 | Status | – | Status |
//! | 0x67 | Snapshot, only to a process that shares its machine | `name` text | Stream, where Snapshotted or Failed will come, or Failed |
//! | 0x68 | Stop: ends the machine, and then the worker | – | Stopped |
//! | 0x69 | Pause | – | Done, or Failed |
//! | 0x6A | Resume | – | Done, or Failed |
//! | 0x6B | Start, first and only to a worker without a machine | `hostname` (`u8` 0, or 1 and a text), then a parcel as in [`parts`](super::parts) | Done, or Failed |
//! | 0x6C | Capture | – | Stream, where Captured or Failed will come, or Failed |
//! | 0x6D | Reset, only to a worker of one client | `hostname` as in Start, then a parcel of ends as in [`parts`](super::parts) | Done, or Failed |
//! | 0x81 | Hello | `version` `u16` | |
//! | 0x82 | Stream | –; the descriptor comes along with the first byte | |
//! | 0x83 | Refused, also unasked to a client too many | `errno` `u16` | |
//! | 0x84 | Seen | `u8` 0, or 1 and an end: `u8` 0 guest (failure, `console` text), 1 stopped | |
//! | 0x85 | Console | bytes | |
//! | 0x86 | Usage | `cpu_ns` `u64`, `exits` `u64` | |
//! | 0x87 | Status | `label` text, state: `u8` 0 running, 1 ended (`u8` 0 code or 1 signal, `u8`), 2 failed (failure, `console` text), 3 paused | |
//! | 0x88 | Snapshotted | `store` bytes, `digest`, `stopped_ns` `u64`, `took_ns` `u64` | |
//! | 0x89 | Failed | `reason` text | |
//! | 0x8A | Stopped | `u8` 0, or 1 and why the guest had ended before: an end | |
//! | 0x8B | Done | – | |
//! | 0x8C | Captured | `stopped_ns` `u64`, then a parcel as in [`capture`](super::capture) | |
//!
//! A failure is `u8` 0 shutdown, 1 unrunnable (`reason` text, `code` `u64`), 2 page lost (`what`
//! text).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use supermachine_formats::Digest;
use supermachine_formats::codec::{DecodeError, Put, Reader};
use supermachine_formats::wire::{self, MAX_PAYLOAD, Message};

use super::status::State;
use crate::ExitStatus;
use crate::machine::{StoredSnapshot, StreamError};
use supermachine_vmm::GuestFailure;

/// The version of these messages.
pub(super) const VERSION: u16 = 7;
/// The longest label.
pub(super) const MAX_LABEL: usize = 64 << 10;
/// The longest other text.
const MAX_TEXT: usize = 16 << 10;

/// Client to worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerRequest {
    Hello { version: u16 },
    Dial,
    Look,
    Console,
    Usage,
    Status,
    Snapshot { name: String },
    Stop,
    Pause,
    Resume,
    Start { hostname: Option<String> },
    Capture,
    Reset { hostname: Option<String> },
}

/// Worker to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerReply {
    Hello { version: u16 },
    Stream,
    Refused { errno: u16 },
    Seen(Option<StreamError>),
    Console(Vec<u8>),
    Usage { cpu_time: Duration, exits: u64 },
    Status { label: String, state: State },
    Snapshotted(StoredSnapshot),
    Failed { reason: String },
    Stopped { before: Option<StreamError> },
    Done,
    Captured { stopped: Duration },
}

impl Message for WorkerRequest {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 0x61,
            Self::Dial => 0x62,
            Self::Look => 0x63,
            Self::Console => 0x64,
            Self::Usage => 0x65,
            Self::Status => 0x66,
            Self::Snapshot { .. } => 0x67,
            Self::Stop => 0x68,
            Self::Pause => 0x69,
            Self::Resume => 0x6A,
            Self::Start { .. } => 0x6B,
            Self::Capture => 0x6C,
            Self::Reset { .. } => 0x6D,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => out.put_u16(*version),
            Self::Snapshot { name } => put_text(out, name, MAX_TEXT),
            Self::Start { hostname } | Self::Reset { hostname } => {
                out.put_option(hostname.as_ref(), |out, name| put_text(out, name, MAX_TEXT));
            }
            Self::Dial | Self::Look | Self::Console | Self::Usage | Self::Status => {}
            Self::Stop | Self::Pause | Self::Resume | Self::Capture => {}
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x61 => Self::Hello { version: reader.u16("version")? },
            0x62 => Self::Dial,
            0x63 => Self::Look,
            0x64 => Self::Console,
            0x65 => Self::Usage,
            0x66 => Self::Status,
            0x67 => Self::Snapshot { name: reader.string("name", MAX_TEXT)? },
            0x68 => Self::Stop,
            0x69 => Self::Pause,
            0x6A => Self::Resume,
            0x6B => Self::Start { hostname: read_hostname(&mut reader)? },
            0x6C => Self::Capture,
            0x6D => Self::Reset { hostname: read_hostname(&mut reader)? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn read_hostname(reader: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    reader.option("hostname", |reader| reader.string("hostname", MAX_TEXT))
}

impl Message for WorkerReply {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 0x81,
            Self::Stream => 0x82,
            Self::Refused { .. } => 0x83,
            Self::Seen(_) => 0x84,
            Self::Console(_) => 0x85,
            Self::Usage { .. } => 0x86,
            Self::Status { .. } => 0x87,
            Self::Snapshotted(_) => 0x88,
            Self::Failed { .. } => 0x89,
            Self::Stopped { .. } => 0x8A,
            Self::Done => 0x8B,
            Self::Captured { .. } => 0x8C,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => out.put_u16(*version),
            Self::Stream | Self::Done => {}
            Self::Refused { errno } => out.put_u16(*errno),
            Self::Seen(end) => out.put_option(end.as_ref(), put_end),
            Self::Console(bytes) => out.put(bytes.get(..MAX_PAYLOAD).unwrap_or(bytes)),
            Self::Usage { cpu_time, exits } => {
                put_duration(out, *cpu_time);
                out.put_u64(*exits);
            }
            Self::Status { label, state } => {
                put_text(out, label, MAX_LABEL);
                put_state(out, state);
            }
            Self::Snapshotted(taken) => {
                out.put_byte_string(taken.store.as_os_str().as_bytes());
                out.put(&taken.digest.0);
                put_duration(out, taken.stopped);
                put_duration(out, taken.took);
            }
            Self::Failed { reason } => put_text(out, reason, MAX_TEXT),
            Self::Stopped { before } => out.put_option(before.as_ref(), put_end),
            Self::Captured { stopped } => put_duration(out, *stopped),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x81 => Self::Hello { version: reader.u16("version")? },
            0x82 => Self::Stream,
            0x83 => Self::Refused { errno: reader.u16("errno")? },
            0x84 => Self::Seen(reader.option("end", read_end)?),
            0x85 => {
                let length = reader.remaining();
                Self::Console(reader.bytes("console", length)?.into())
            }
            0x86 => {
                let cpu_time = read_duration(&mut reader, "processor time")?;
                Self::Usage { cpu_time, exits: reader.u64("exits")? }
            }
            0x87 => Self::Status {
                label: reader.string("label", MAX_LABEL)?,
                state: read_state(&mut reader)?,
            },
            0x88 => Self::Snapshotted(StoredSnapshot {
                store: OsString::from_vec(reader.byte_string("store", MAX_TEXT)?.into()).into(),
                digest: Digest(reader.array("digest")?),
                stopped: read_duration(&mut reader, "stopped")?,
                took: read_duration(&mut reader, "took")?,
            }),
            0x89 => Self::Failed { reason: reader.string("reason", MAX_TEXT)? },
            0x8A => Self::Stopped { before: reader.option("end", read_end)? },
            0x8B => Self::Done,
            0x8C => Self::Captured { stopped: read_duration(&mut reader, "stopped")? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// Sends the variants that a worker itself finds.
fn put_end(out: &mut Vec<u8>, end: &StreamError) {
    match end {
        StreamError::Guest { failure, console } => {
            out.put_u8(0);
            put_failure(out, failure);
            put_text(out, console, MAX_TEXT);
        }
        _ => out.put_u8(1),
    }
}

fn read_end(reader: &mut Reader<'_>) -> Result<StreamError, DecodeError> {
    match reader.u8("end")? {
        0 => {
            let failure = read_failure(reader)?;
            Ok(StreamError::Guest { failure, console: reader.string("console", MAX_TEXT)? })
        }
        1 => Ok(StreamError::Stopped),
        other => Err(reader.illegal("end", other.into())),
    }
}

fn put_state(out: &mut Vec<u8>, state: &State) {
    match state {
        State::Running => out.put_u8(0),
        State::EntrypointExited { status } => {
            let (is_signal, value) = match status.0 {
                wire::ExitStatus::Code(code) => (false, code),
                wire::ExitStatus::Signal(signal) => (true, signal),
            };
            out.put_u8(1);
            out.put_bool(is_signal);
            out.put_u8(value);
        }
        State::Failed { failure, console } => {
            out.put_u8(2);
            put_failure(out, failure);
            put_text(out, console, MAX_TEXT);
        }
        State::Paused => out.put_u8(3),
    }
}

fn read_state(reader: &mut Reader<'_>) -> Result<State, DecodeError> {
    match reader.u8("state")? {
        0 => Ok(State::Running),
        1 => {
            let is_signal = reader.bool("by signal")?;
            let value = reader.u8("status")?;
            let status = if is_signal {
                wire::ExitStatus::Signal(value)
            } else {
                wire::ExitStatus::Code(value)
            };
            Ok(State::EntrypointExited { status: ExitStatus(status) })
        }
        2 => {
            let failure = read_failure(reader)?;
            Ok(State::Failed { failure, console: reader.string("console", MAX_TEXT)? })
        }
        3 => Ok(State::Paused),
        other => Err(reader.illegal("state", other.into())),
    }
}

fn put_failure(out: &mut Vec<u8>, failure: &GuestFailure) {
    match failure {
        GuestFailure::Shutdown => out.put_u8(0),
        GuestFailure::Unrunnable { reason, code } => {
            out.put_u8(1);
            put_text(out, reason, MAX_TEXT);
            out.put_u64(*code);
        }
        GuestFailure::PageLost { what } => {
            out.put_u8(2);
            put_text(out, what, MAX_TEXT);
        }
    }
}

fn read_failure(reader: &mut Reader<'_>) -> Result<GuestFailure, DecodeError> {
    match reader.u8("failure")? {
        0 => Ok(GuestFailure::Shutdown),
        1 => {
            let reason = reader.string("reason", MAX_TEXT)?.into();
            Ok(GuestFailure::Unrunnable { reason, code: reader.u64("code")? })
        }
        2 => Ok(GuestFailure::PageLost { what: reader.string("what", MAX_TEXT)? }),
        other => Err(reader.illegal("failure", other.into())),
    }
}

/// Writes a text, cut off at the limit of its reader.
fn put_text(out: &mut Vec<u8>, text: &str, limit: usize) {
    let end = text.floor_char_boundary(limit);
    out.put_byte_string(&text.as_bytes()[..end]);
}

fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    out.put_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

fn read_duration(reader: &mut Reader<'_>, name: &'static str) -> Result<Duration, DecodeError> {
    Ok(Duration::from_nanos(reader.u64(name)?))
}

fn unknown_kind(kind: u16) -> DecodeError {
    DecodeError::Illegal { field: "frame kind", offset: 4, value: kind.into() }
}
