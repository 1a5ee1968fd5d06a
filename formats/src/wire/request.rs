//! What the host asks of the agent, and what it sends after the request.

use alloc::string::String;
use alloc::vec::Vec;

use super::field::{put_strings, read_chunk, read_path, read_port, read_signal, read_strings};
use super::{MAX_NAME, Message, unknown_kind};
use crate::codec::{DecodeError, Put, Reader};

/// The first frame of a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Probes the slots, mounts the root file system and prepares the container.
    Attach(Container),
    /// Starts the container's entrypoint. Answered by [`Reply::Started`](super::Reply::Started).
    Start,
    /// Runs a command.
    Exec(Command),
    /// Asks for the TCP ports that something in the guest listens on.
    Listening,
    /// Follows the entrypoint's output from the oldest byte kept, then its end.
    Logs {
        /// Goes on until the entrypoint ends; otherwise ends with what is there.
        follow: bool,
    },
    /// Sends a signal to the entrypoint.
    SignalEntrypoint {
        /// The signal's number.
        signal: u8,
    },
    /// Writes back dirty files and gives free memory back, before a capture.
    Settle,
    /// Connects to a TCP port on the guest's loopback interface. Answered by
    /// [`Reply::Connected`](super::Reply::Connected); what the connection carries follows.
    Connect {
        /// The port; not 0.
        port: u16,
        /// Whether the host's bytes come as [`Segment`](super::Segment)s, so that their end and
        /// a broken connection can be told apart at any time.
        framed: bool,
    },
    /// Listens on a TCP port of the guest's loopback interface for as long as the stream is
    /// open. Answered by [`Reply::Listens`](super::Reply::Listens).
    Listen {
        /// The port; 0 has the guest pick one.
        port: u16,
    },
    /// Picks up a connection that [`Reply::Accepted`](super::Reply::Accepted) told. Goes on like
    /// a framed [`Request::Connect`].
    Accept {
        /// Its number.
        connection: u32,
    },
}

/// The container that an image describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The slots to probe, in order.
    pub slots: Vec<u8>,
    /// The block device of the root file system as the guest names it: `pmem0` or `vda`.
    pub root_device: String,
    /// Whether to mount it with DAX.
    pub dax: bool,
    /// The guest's host name.
    pub hostname: String,
    /// The entrypoint and its surroundings; also the defaults of every exec.
    pub entrypoint: Process,
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` pairs.
    pub env: Vec<Vec<u8>>,
    /// The working directory; empty means `/`.
    pub cwd: Vec<u8>,
    /// `user[:group]`, by name or number; empty means root.
    pub user: String,
}

/// A command for the container, on top of the entrypoint's environment, directory and user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` pairs that add to, or replace, the container's.
    pub env: Vec<Vec<u8>>,
    /// Whether to start from an empty environment.
    pub env_clear: bool,
    /// The working directory, if not the container's.
    pub cwd: Option<Vec<u8>>,
    /// `user[:group]`, if not the container's.
    pub user: Option<String>,
    /// After this many milliseconds the command's process group is killed; 0 means never.
    pub timeout_ms: u64,
    /// Whether standard input comes as [`Input::Stdin`]; otherwise it is empty.
    pub stdin: bool,
}

/// Host to agent on an [`Request::Exec`] stream, after the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Bytes for standard input, at most [`MAX_CHUNK`](super::MAX_CHUNK).
    Stdin(Vec<u8>),
    /// The end of standard input.
    StdinEnd,
    /// A signal for the command's process group.
    Signal(u8),
}

impl Message for Request {
    fn kind(&self) -> u16 {
        match self {
            Self::Attach(_) => 0x21,
            Self::Start => 0x22,
            Self::Exec(_) => 0x23,
            Self::Listening => 0x24,
            Self::Logs { .. } => 0x25,
            Self::SignalEntrypoint { .. } => 0x26,
            Self::Settle => 0x27,
            Self::Connect { .. } => 0x2C,
            Self::Listen { .. } => 0x2D,
            Self::Accept { .. } => 0x2E,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Attach(container) => {
                out.put_byte_string(&container.slots);
                out.put_byte_string(container.root_device.as_bytes());
                out.put_bool(container.dax);
                out.put_byte_string(container.hostname.as_bytes());
                put_process(out, &container.entrypoint);
            }
            Self::Exec(command) => put_command(out, command),
            Self::Logs { follow } => out.put_bool(*follow),
            Self::SignalEntrypoint { signal } => out.put_u8(*signal),
            Self::Connect { port, framed } => {
                out.put_u16(*port);
                out.put_bool(*framed);
            }
            Self::Listen { port } => out.put_u16(*port),
            Self::Accept { connection } => out.put_u32(*connection),
            Self::Start | Self::Listening | Self::Settle => {}
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x21 => Self::Attach(Container {
                slots: reader.byte_string("slots", 256)?.into(),
                root_device: reader.string("root device", MAX_NAME)?,
                dax: reader.bool("dax")?,
                hostname: reader.string("hostname", MAX_NAME)?,
                entrypoint: read_process(&mut reader)?,
            }),
            0x22 => Self::Start,
            0x23 => Self::Exec(read_command(&mut reader)?),
            0x24 => Self::Listening,
            0x25 => Self::Logs { follow: reader.bool("follow")? },
            0x26 => Self::SignalEntrypoint { signal: read_signal(&mut reader)? },
            0x27 => Self::Settle,
            0x2C => Self::Connect { port: read_port(&mut reader)?, framed: reader.bool("framed")? },
            0x2D => Self::Listen { port: reader.u16("port")? },
            0x2E => Self::Accept { connection: reader.u32("connection")? },
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Message for Input {
    fn kind(&self) -> u16 {
        match self {
            Self::Stdin(_) => 0x31,
            Self::StdinEnd => 0x32,
            Self::Signal(_) => 0x33,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(bytes) => out.put(bytes),
            Self::StdinEnd => {}
            Self::Signal(signal) => out.put_u8(*signal),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x31 => Self::Stdin(read_chunk(&mut reader)?),
            0x32 => Self::StdinEnd,
            0x33 => Self::Signal(read_signal(&mut reader)?),
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn put_process(out: &mut Vec<u8>, process: &Process) {
    put_strings(out, &process.argv);
    put_strings(out, &process.env);
    out.put_byte_string(&process.cwd);
    out.put_byte_string(process.user.as_bytes());
}

fn read_process(reader: &mut Reader<'_>) -> Result<Process, DecodeError> {
    Ok(Process {
        argv: read_strings(reader, "argv")?,
        env: read_strings(reader, "env")?,
        cwd: read_path(reader, "cwd")?,
        user: reader.string("user", MAX_NAME)?,
    })
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    put_strings(out, &command.argv);
    put_strings(out, &command.env);
    out.put_bool(command.env_clear);
    out.put_option(command.cwd.as_ref(), |out, cwd| out.put_byte_string(cwd));
    out.put_option(command.user.as_ref(), |out, user| out.put_byte_string(user.as_bytes()));
    out.put_u64(command.timeout_ms);
    out.put_bool(command.stdin);
}

fn read_command(reader: &mut Reader<'_>) -> Result<Command, DecodeError> {
    Ok(Command {
        argv: read_strings(reader, "argv")?,
        env: read_strings(reader, "env")?,
        env_clear: reader.bool("env clear")?,
        cwd: reader.option("cwd", |r| read_path(r, "cwd"))?,
        user: reader.option("user", |r| r.string("user", MAX_NAME))?,
        timeout_ms: reader.u64("timeout")?,
        stdin: reader.bool("stdin")?,
    })
}
