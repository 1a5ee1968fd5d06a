//! Messages that the host sends after a request.

use alloc::vec::Vec;

use super::field::{WindowSize, put_window, read_chunk, read_signal, read_window};
use super::frame::{Message, unknown_kind};
use crate::codec::{DecodeError, Put, Reader};

/// Host to agent on a request stream, after the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Bytes of standard input, a file or an archive, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Data(Vec<u8>),
    /// The end of the data.
    DataEnd,
    /// A signal for the command's process group.
    Signal(u8),
    /// A new size for the command's terminal.
    Resize(WindowSize),
    /// Flow control of one of the command's output streams.
    Flow {
        /// The stream.
        output: Output,
        /// The new state.
        flow: Flow,
    },
}

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Flow control of an output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The agent sends output as it arrives.
    Open,
    /// The agent leaves output in the pipe, so that the program waits once the pipe is full.
    Paused,
    /// The agent closes the pipe for good: a program that writes to it gets `SIGPIPE`.
    Closed,
}

impl Message for Input {
    fn kind(&self) -> u16 {
        match self {
            Self::Data(_) => 0x31,
            Self::DataEnd => 0x32,
            Self::Signal(_) => 0x33,
            Self::Resize(_) => 0x34,
            Self::Flow { .. } => 0x35,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(bytes) => out.put(bytes),
            Self::DataEnd => {}
            Self::Signal(signal) => out.put_u8(*signal),
            Self::Resize(size) => put_window(out, *size),
            Self::Flow { output, flow } => {
                out.put_u8(match output {
                    Output::Stdout => 1,
                    Output::Stderr => 2,
                });
                out.put_u8(match flow {
                    Flow::Open => 0,
                    Flow::Paused => 1,
                    Flow::Closed => 2,
                });
            }
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x31 => Self::Data(read_chunk(&mut reader)?),
            0x32 => Self::DataEnd,
            0x33 => Self::Signal(read_signal(&mut reader)?),
            0x34 => Self::Resize(read_window(&mut reader)?),
            0x35 => Self::Flow { output: read_output(&mut reader)?, flow: read_flow(&mut reader)? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn read_output(reader: &mut Reader<'_>) -> Result<Output, DecodeError> {
    match reader.u8("output")? {
        1 => Ok(Output::Stdout),
        2 => Ok(Output::Stderr),
        value => Err(reader.illegal("output", value.into())),
    }
}

fn read_flow(reader: &mut Reader<'_>) -> Result<Flow, DecodeError> {
    match reader.u8("flow")? {
        0 => Ok(Flow::Open),
        1 => Ok(Flow::Paused),
        2 => Ok(Flow::Closed),
        value => Err(reader.illegal("flow", value.into())),
    }
}
