//! Messages that the agent replies with.

use alloc::vec::Vec;

use super::failure::Failure;
use super::field::{read_chunk, read_port};
use super::frame::{Message, unknown_kind};
use crate::codec::{DecodeError, Put, Reader};

/// Agent to host on a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The request succeeded. Final.
    Done,
    /// The request failed. Final.
    Failed(Failure),
    /// The process has started.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Bytes from standard output, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Stdout(Vec<u8>),
    /// Bytes from standard error, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Stderr(Vec<u8>),
    /// The process exited, and all its output was sent. Final.
    Exited(Exit),
    /// The answer to [`Request::Listening`](super::Request::Listening), sorted, without duplicates. Final.
    Ports(Vec<u16>),
    /// The number of bytes of standard input taken since the last such message. Sent from half of
    /// [`STDIN_WINDOW`](super::STDIN_WINDOW) on, so that little input costs no message.
    StdinTaken(u32),
    /// The program closed its standard input. The agent drops further input.
    StdinClosed,
    /// The answer to [`Request::Memory`](super::Request::Memory). Final.
    Memory(Memory),
    /// Bytes of a file or an archive, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Data(Vec<u8>),
    /// The connection is established, or the flow's socket is open. From here on the agent's side of the
    /// stream carries the connection's bytes, or the flow's datagrams. Final.
    Connected,
    /// The answer to [`Request::Listen`](super::Request::Listen): the port accepts connections.
    Listens {
        /// The port.
        port: u16,
    },
    /// A connection arrived at the port and waits for the host.
    Accepted {
        /// Its number, for [`Request::Accept`](super::Request::Accept).
        connection: u32,
    },
}

/// The guest's memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Memory that the guest's kernel manages.
    pub total_kib: u64,
    /// Memory available to programs, including what the kernel can reclaim.
    pub available_kib: u64,
}

/// The exit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or the signal that killed it.
    pub status: ExitStatus,
    /// Whether its time-out killed it.
    pub timed_out: bool,
    /// Run time in microseconds.
    pub duration_us: u64,
    /// Peak resident memory in KiB.
    pub peak_rss_kib: u64,
}

/// An exit code or a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// The process returned this code.
    Code(u8),
    /// This signal killed the process.
    Signal(u8),
}

impl Message for Reply {
    fn kind(&self) -> u16 {
        match self {
            Self::Done => 0x41,
            Self::Failed(_) => 0x42,
            Self::Started { .. } => 0x43,
            Self::Stdout(_) => 0x44,
            Self::Stderr(_) => 0x45,
            Self::Exited(_) => 0x46,
            Self::Ports(_) => 0x47,
            Self::StdinTaken(_) => 0x48,
            Self::StdinClosed => 0x49,
            Self::Memory(_) => 0x4A,
            Self::Data(_) => 0x4B,
            Self::Connected => 0x4C,
            Self::Listens { .. } => 0x4D,
            Self::Accepted { .. } => 0x4E,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done | Self::StdinClosed | Self::Connected => {}
            Self::Failed(failure) => failure.put(out),
            Self::Started { pid } => out.put_u32(*pid),
            Self::Stdout(bytes) | Self::Stderr(bytes) | Self::Data(bytes) => out.put(bytes),
            Self::StdinTaken(count) => out.put_u32(*count),
            Self::Memory(memory) => {
                out.put_u64(memory.total_kib);
                out.put_u64(memory.available_kib);
            }
            Self::Exited(exit) => put_exit(out, exit),
            Self::Ports(ports) => out.put_list(ports, |out, port| out.put_u16(*port)),
            Self::Listens { port } => out.put_u16(*port),
            Self::Accepted { connection } => out.put_u32(*connection),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x41 => Self::Done,
            0x42 => Self::Failed(Failure::read(&mut reader)?),
            0x43 => Self::Started { pid: reader.u32("pid")? },
            0x44 => Self::Stdout(read_chunk(&mut reader)?),
            0x45 => Self::Stderr(read_chunk(&mut reader)?),
            0x46 => Self::Exited(read_exit(&mut reader)?),
            0x47 => Self::Ports(reader.list("ports", 65536, 2, |r| r.u16("port"))?),
            0x48 => Self::StdinTaken(reader.u32("stdin taken")?),
            0x49 => Self::StdinClosed,
            0x4A => Self::Memory(Memory {
                total_kib: reader.u64("total")?,
                available_kib: reader.u64("available")?,
            }),
            0x4B => Self::Data(read_chunk(&mut reader)?),
            0x4C => Self::Connected,
            0x4D => Self::Listens { port: read_port(&mut reader)? },
            0x4E => Self::Accepted { connection: reader.u32("connection")? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Reply {
    /// Whether no further reply follows on the stream.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Done
                | Self::Failed(_)
                | Self::Exited(_)
                | Self::Ports(_)
                | Self::Memory(_)
                | Self::Connected
        )
    }
}

fn put_exit(out: &mut Vec<u8>, exit: &Exit) {
    let (by_signal, value) = match exit.status {
        ExitStatus::Code(code) => (false, code),
        ExitStatus::Signal(signal) => (true, signal),
    };
    out.put_bool(by_signal);
    out.put_u8(value);
    out.put_bool(exit.timed_out);
    out.put_u64(exit.duration_us);
    out.put_u64(exit.peak_rss_kib);
}

fn read_exit(reader: &mut Reader<'_>) -> Result<Exit, DecodeError> {
    let by_signal = reader.bool("by signal")?;
    let value = reader.u8("status")?;
    Ok(Exit {
        status: if by_signal { ExitStatus::Signal(value) } else { ExitStatus::Code(value) },
        timed_out: reader.bool("timed out")?,
        duration_us: reader.u64("duration")?,
        peak_rss_kib: reader.u64("peak rss")?,
    })
}
