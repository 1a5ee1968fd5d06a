//! What host and agent say to each other: frames over vsock streams.
//!
//! One control stream is opened by the agent at boot and lives on across snapshot and
//! restore: it carries [`Control`] to the agent and [`Event`] back. Every other stream is one
//! request, opened by the host: a [`Request`], then [`Input`] to the agent and [`Reply`] back,
//! until a final reply. Layouts and limits are in `SPEC.md`.

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::{DecodeError, Put, Reader};

/// The version of this protocol, told in [`Event::Hello`]. Both sides must agree.
pub const VERSION: u16 = 1;
/// The host's vsock port that the agent connects its control stream to.
pub const CONTROL_PORT: u32 = 1;
/// The agent's vsock port that requests are made to.
pub const REQUEST_PORT: u32 = 2;
/// Bytes before each frame's payload: length, kind, zero.
pub const HEADER_SIZE: usize = 8;
/// The largest payload of a frame.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The largest piece of a stream in one frame.
pub const MAX_CHUNK: usize = 64 << 10;
/// The most arguments or environment variables of one command.
pub const MAX_STRINGS: usize = 16 << 10;
/// The longest path, host name or operation in a frame.
pub const MAX_NAME: usize = 4096;
/// Entropy sent with [`Control::Resume`], in bytes.
pub const ENTROPY_SIZE: usize = 64;

const MAX_STRING: usize = MAX_PAYLOAD;

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes that follow.
    pub length: usize,
    /// Which message the payload is.
    pub kind: u16,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// A length over [`MAX_PAYLOAD`], or reserved bytes that are not zero.
    pub fn decode(bytes: [u8; HEADER_SIZE]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes);
        let length = usize::try_from(reader.u32("frame length")?).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(DecodeError::TooLarge {
                field: "frame length",
                offset: 0,
                value: length as u64,
                limit: MAX_PAYLOAD as u64,
            });
        }
        let kind = reader.u16("frame kind")?;
        match reader.u16("frame reserved")? {
            0 => Ok(Self { length, kind }),
            value => Err(reader.illegal("frame reserved", value.into())),
        }
    }
}

/// A message that travels as one frame.
pub trait Message: Sized {
    /// The frame's kind.
    fn kind(&self) -> u16;

    /// Appends the payload.
    fn put_payload(&self, out: &mut Vec<u8>);

    /// Reads the payload of a frame of this kind.
    ///
    /// # Errors
    /// An unknown kind, or a payload that is not of its form.
    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the whole frame.
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        out.put_u16(self.kind());
        out.put_u16(0);
        self.put_payload(out);
        let length = out.len() - start - HEADER_SIZE;
        if let Some(field) = out.get_mut(start..start + 4) {
            field.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
    }

    /// The whole frame.
    fn to_frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Host to agent on the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// The first message after every start. The agent acts on it before it answers requests.
    Resume(Resume),
}

/// What a machine must be told when it goes on.
#[derive(Clone, PartialEq, Eq)]
pub struct Resume {
    /// The wall clock, in nanoseconds since 1970-01-01 UTC.
    pub realtime_ns: u64,
    /// Fresh random bytes for the guest kernel's generator and for what must be unique.
    pub entropy: [u8; ENTROPY_SIZE],
    /// The new host name, if it is to change.
    pub hostname: Option<String>,
}

impl core::fmt::Debug for Resume {
    /// Leaves the entropy out, so that it reaches no log.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Resume")
            .field("realtime_ns", &self.realtime_ns)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// Agent to host on the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The agent is up; sent once, at boot.
    Hello {
        /// The agent's [`VERSION`].
        version: u16,
    },
    /// [`Control::Resume`] was carried out.
    Resumed,
    /// A step of [`Control::Resume`] failed; the machine must not be used.
    ResumeFailed(Failure),
}

/// The first frame of a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Probes the slots, mounts the root file system and prepares the container.
    Attach(Container),
    /// Starts the container's entrypoint. Answered by [`Reply::Started`].
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
    /// Bytes for standard input, at most [`MAX_CHUNK`].
    Stdin(Vec<u8>),
    /// The end of standard input.
    StdinEnd,
    /// A signal for the command's process group.
    Signal(u8),
}

/// Agent to host on a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The request was carried out. Final.
    Done,
    /// The request could not be carried out. Final.
    Failed(Failure),
    /// The process runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Bytes from standard output, at most [`MAX_CHUNK`].
    Stdout(Vec<u8>),
    /// Bytes from standard error, at most [`MAX_CHUNK`].
    Stderr(Vec<u8>),
    /// The process ended and all its output was sent. Final.
    Exited(Exit),
    /// The answer to [`Request::Listening`], sorted, without duplicates. Final.
    Ports(Vec<u16>),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code or the signal that ended it.
    pub status: ExitStatus,
    /// Whether the time-out killed it.
    pub timed_out: bool,
    /// From its start to its end, in microseconds.
    pub duration_us: u64,
    /// The most memory that was resident at once, in KiB.
    pub peak_rss_kib: u64,
}

/// An exit code or a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// The process returned this code.
    Code(u8),
    /// This signal ended the process.
    Signal(u8),
}

/// Why the agent could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The operation that failed, such as `mount` or `execve`.
    pub operation: String,
    /// What it was applied to: a path, a user name, a device.
    pub subject: String,
    /// The guest kernel's error number; 0 when none was involved.
    pub errno: u16,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} of {} failed with errno {}", self.operation, self.subject, self.errno)
    }
}

impl Message for Control {
    fn kind(&self) -> u16 {
        match self {
            Self::Resume(_) => 0x01,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Resume(resume) => {
                out.put_u64(resume.realtime_ns);
                out.put(&resume.entropy);
                out.put_option(resume.hostname.as_ref(), |out, name| {
                    out.put_byte_string(name.as_bytes());
                });
            }
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x01 => Self::Resume(Resume {
                realtime_ns: reader.u64("realtime")?,
                entropy: reader.array("entropy")?,
                hostname: reader.option("hostname", |r| r.string("hostname", MAX_NAME))?,
            }),
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Message for Event {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 0x11,
            Self::Resumed => 0x12,
            Self::ResumeFailed(_) => 0x13,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => out.put_u16(*version),
            Self::Resumed => {}
            Self::ResumeFailed(failure) => put_failure(out, failure),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x11 => Self::Hello { version: reader.u16("version")? },
            0x12 => Self::Resumed,
            0x13 => Self::ResumeFailed(read_failure(&mut reader)?),
            _ => return Err(unknown_kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
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
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => {}
            Self::Failed(failure) => put_failure(out, failure),
            Self::Started { pid } => out.put_u32(*pid),
            Self::Stdout(bytes) | Self::Stderr(bytes) => out.put(bytes),
            Self::Exited(exit) => put_exit(out, exit),
            Self::Ports(ports) => out.put_list(ports, |out, port| out.put_u16(*port)),
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x41 => Self::Done,
            0x42 => Self::Failed(read_failure(&mut reader)?),
            0x43 => Self::Started { pid: reader.u32("pid")? },
            0x44 => Self::Stdout(read_chunk(&mut reader)?),
            0x45 => Self::Stderr(read_chunk(&mut reader)?),
            0x46 => Self::Exited(read_exit(&mut reader)?),
            0x47 => Self::Ports(reader.list("ports", 65536, 2, |r| r.u16("port"))?),
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
        matches!(self, Self::Done | Self::Failed(_) | Self::Exited(_) | Self::Ports(_))
    }
}

fn unknown_kind(kind: u16) -> DecodeError {
    DecodeError::Illegal { field: "frame kind", offset: 4, value: kind.into() }
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

fn put_failure(out: &mut Vec<u8>, failure: &Failure) {
    out.put_byte_string(failure.operation.as_bytes());
    out.put_byte_string(failure.subject.as_bytes());
    out.put_u16(failure.errno);
}

fn read_failure(reader: &mut Reader<'_>) -> Result<Failure, DecodeError> {
    Ok(Failure {
        operation: reader.string("operation", MAX_NAME)?,
        subject: reader.string("subject", MAX_NAME)?,
        errno: reader.u16("errno")?,
    })
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

fn put_strings(out: &mut Vec<u8>, strings: &[Vec<u8>]) {
    out.put_list(strings, |out, string| out.put_byte_string(string));
}

/// Strings that become C strings in the guest: none may hold a zero byte.
fn read_strings(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<Vec<u8>>, DecodeError> {
    reader.list(field, MAX_STRINGS, 4, |r| read_c_string(r, field, MAX_STRING))
}

fn read_path(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<u8>, DecodeError> {
    read_c_string(reader, field, MAX_NAME)
}

fn read_c_string(
    reader: &mut Reader<'_>,
    field: &'static str,
    limit: usize,
) -> Result<Vec<u8>, DecodeError> {
    let bytes = reader.byte_string(field, limit)?;
    if bytes.contains(&0) { Err(reader.illegal(field, 0)) } else { Ok(bytes.into()) }
}

fn read_chunk(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let count = reader.remaining();
    if count > MAX_CHUNK {
        return Err(DecodeError::TooLarge {
            field: "chunk",
            offset: 0,
            value: count as u64,
            limit: MAX_CHUNK as u64,
        });
    }
    Ok(reader.bytes("chunk", count)?.into())
}

fn read_signal(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match reader.u8("signal")? {
        signal @ 1..=64 => Ok(signal),
        value => Err(reader.illegal("signal", value.into())),
    }
}

#[cfg(test)]
mod tests;
