//! Requests of the host to the agent.

use alloc::string::String;
use alloc::vec::Vec;

use super::field::{
    WindowSize, put_strings, put_window, read_mode, read_path, read_port, read_signal,
    read_strings, read_window,
};
use super::frame::{MAX_NAME, MAX_PARTS, MAX_PAYLOAD, Message, unknown_kind};
use super::settings::{Settings, Ulimit, put_settings, put_ulimits, read_settings, read_ulimits};
use crate::codec::{DecodeError, Put, Reader};

/// The first frame of a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Probes the slots, mounts the root file system and prepares the container: [`Container::encode`]'s bytes,
    /// so that programs that only restore have no part of it.
    Attach(Vec<u8>),
    /// Starts the container's entrypoint. Answered by [`Reply::Started`](super::Reply::Started).
    Start,
    /// Starts the container's entrypoint as PID 1 of namespaces of its own. Answered by
    /// [`Reply::Started`](super::Reply::Started).
    StartInit,
    /// Runs a command.
    Exec(Command),
    /// Asks for the TCP ports that guest programs listen on.
    Listening,
    /// Asks for the entrypoint's output, from the oldest byte kept, and its exit.
    Logs {
        /// Continues until the entrypoint exits, instead of stopping at the present end.
        follow: bool,
    },
    /// Sends a signal to the entrypoint.
    SignalEntrypoint {
        /// The signal's number.
        signal: u8,
    },
    /// Writes back dirty files and returns free memory, before a capture.
    Settle,
    /// Waits until the entrypoint exits. Answered by [`Reply::Exited`](super::Reply::Exited).
    WaitEntrypoint,
    /// Asks how much memory is in use. Answered by [`Reply::Memory`](super::Reply::Memory).
    Memory,
    /// Writes a file. Its content follows as [`Input::Data`](super::Input::Data) up to
    /// [`Input::DataEnd`](super::Input::DataEnd).
    WriteFile(WriteFile),
    /// Reads a regular file. Answered by [`Reply::Data`](super::Reply::Data) and [`Reply::Done`](super::Reply::Done).
    ReadFile {
        /// The file.
        path: Vec<u8>,
    },
    /// Unpacks a tar archive into a directory, which the agent creates if it is missing. The archive
    /// follows as [`Input::Data`](super::Input::Data) up to [`Input::DataEnd`](super::Input::DataEnd).
    CopyIn {
        /// The directory.
        path: Vec<u8>,
    },
    /// Packs a file, or a directory with its content, into a tar archive. Answered by
    /// [`Reply::Data`](super::Reply::Data) and [`Reply::Done`](super::Reply::Done).
    CopyOut {
        /// The file or directory.
        path: Vec<u8>,
    },
    /// Connects to a TCP port on the guest's loopback interface. Answered by
    /// [`Reply::Connected`](super::Reply::Connected), which the connection's bytes follow.
    Connect {
        /// The port; not 0.
        port: u16,
        /// Whether the host's bytes come as [`Segment`](super::Segment)s, which tell their end from a
        /// broken connection.
        framed: bool,
    },
    /// Listens on a TCP port of the guest's loopback interface for as long as the stream is
    /// open. Answered by [`Reply::Listens`](super::Reply::Listens).
    Listen {
        /// The port; 0 picks a free one.
        port: u16,
    },
    /// Takes over a connection that [`Reply::Accepted`](super::Reply::Accepted) announced. Continues
    /// like a framed [`Request::Connect`].
    Accept {
        /// Its number.
        connection: u32,
    },
    /// Opens a UDP socket for a port on the guest's loopback interface. Answered by
    /// [`Reply::Connected`](super::Reply::Connected), whether or not something listens there.
    /// [`Datagram`](super::Datagram)s follow in both directions for as long as the stream is open.
    Datagrams {
        /// The port; not 0.
        port: u16,
    },
}

/// The signal that stops an entrypoint whose image names none: SIGTERM.
pub const DEFAULT_STOP_SIGNAL: u8 = 15;

/// The container that an image describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The slots to probe, in order.
    pub slots: Vec<u8>,
    /// The guest's name of the block device with the root file system: `pmem0` or `vda`.
    pub root_device: String,
    /// The guest's host name.
    pub hostname: String,
    /// The entrypoint. Its environment, directory and user are the defaults of every exec.
    pub entrypoint: Process,
    /// What runs after each restore.
    pub after_restore: AfterRestore,
    /// What its processes see besides the image's files.
    pub settings: Settings,
    /// The signal that stops the entrypoint, 1 to 64.
    pub stop_signal: u8,
    /// When an entrypoint that was started anew is ready, once it listens on the TCP ports that it listened on.
    pub readiness: Readiness,
}

/// What an entrypoint that was started anew has to do before it is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// Nothing more.
    #[default]
    Started,
    /// Write this text.
    Writes(Vec<u8>),
    /// Let this command exit with status 0.
    Answers(Vec<Vec<u8>>),
}

impl Container {
    /// The payload of [`Request::Attach`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_byte_string(&self.slots);
        out.put_byte_string(self.root_device.as_bytes());
        out.put_byte_string(self.hostname.as_bytes());
        put_process(&mut out, &self.entrypoint);
        put_after_restore(&mut out, &self.after_restore);
        put_settings(&mut out, &self.settings);
        out.put_u8(self.stop_signal);
        put_readiness(&mut out, &self.readiness);
        out
    }

    /// Decodes the payload of [`Request::Attach`].
    ///
    /// # Errors
    /// It is malformed.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let container = Self {
            slots: reader.byte_string("slots", 256)?.into(),
            root_device: reader.string("root device", MAX_NAME)?,
            hostname: reader.string("hostname", MAX_NAME)?,
            entrypoint: read_process(&mut reader)?,
            after_restore: read_after_restore(&mut reader)?,
            settings: read_settings(&mut reader)?,
            stop_signal: read_signal(&mut reader)?,
            readiness: read_readiness(&mut reader)?,
        };
        reader.finish()?;
        Ok(container)
    }
}

impl Default for Container {
    /// One without files or programs, whose entrypoint stops on SIGTERM.
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            root_device: String::new(),
            hostname: String::new(),
            entrypoint: Process::default(),
            after_restore: AfterRestore::default(),
            settings: Settings::default(),
            stop_signal: DEFAULT_STOP_SIGNAL,
            readiness: Readiness::Started,
        }
    }
}

/// What runs between a restore and the first answer to a request, after the programs in the guest's
/// folder for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterRestore {
    /// The action; `None` leaves the entrypoint alone.
    pub action: Option<Action>,
    /// How long the action, and each program of the folder, may take, in milliseconds; not 0.
    pub timeout_ms: u64,
}

/// An action after each restore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Stops the entrypoint, starts it anew, and waits for the TCP ports that it listened on.
    Restart {
        /// The signal that stops it, 1 to 64.
        signal: u8,
    },
    /// Sends the entrypoint a signal, 1 to 64.
    Signal(u8),
    /// Runs a program with its arguments, as the container's user. It must exit with status 0.
    Exec(Vec<Vec<u8>>),
}

impl AfterRestore {
    /// The default time limit, in milliseconds.
    pub const TIMEOUT_MS: u64 = 30_000;
}

impl Default for AfterRestore {
    fn default() -> Self {
        Self { action: None, timeout_ms: Self::TIMEOUT_MS }
    }
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

/// A command for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` pairs, added to the container's; they replace equal names.
    pub env: Vec<Vec<u8>>,
    /// Whether to start from an empty environment.
    pub env_clear: bool,
    /// The working directory; `None` means the container's.
    pub cwd: Option<Vec<u8>>,
    /// `user[:group]`; `None` means the container's.
    pub user: Option<String>,
    /// The time until the agent kills the command's process group, in milliseconds; 0 means never.
    pub timeout_ms: u64,
    /// Whether standard input follows as [`Input::Data`](super::Input::Data); otherwise it is empty.
    pub stdin: bool,
    /// The size of a terminal for the command's standard input, output and error.
    pub terminal: Option<WindowSize>,
    /// Files to write before it starts.
    pub files: Vec<StagedFile>,
    /// Further commands. Each runs once the one before it has returned 0.
    pub chain: Vec<Vec<Vec<u8>>>,
    /// Limits of its processes, which replace the container's.
    pub ulimits: Vec<Ulimit>,
}

/// A small file to write before a command starts. The command's user owns it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedFile {
    /// The path.
    pub path: Vec<u8>,
    /// The mode, at most [`MAX_MODE`](super::MAX_MODE).
    pub mode: u16,
    /// The content.
    pub content: Vec<u8>,
}

/// A file to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteFile {
    /// The path.
    pub path: Vec<u8>,
    /// The mode, at most [`MAX_MODE`](super::MAX_MODE). `None` keeps that of an existing file; a
    /// new file gets 0644.
    pub mode: Option<u16>,
    /// The owner, as `user[:group]`; `None` does not change it.
    pub owner: Option<String>,
    /// Whether to append to the file instead of replacing its content.
    pub append: bool,
}

impl Message for Request {
    fn kind(&self) -> u16 {
        match self {
            Self::Attach(_) => 0x21,
            Self::Start => 0x22,
            Self::StartInit => 0x37,
            Self::Exec(_) => 0x23,
            Self::Listening => 0x24,
            Self::Logs { .. } => 0x25,
            Self::SignalEntrypoint { .. } => 0x26,
            Self::Settle => 0x27,
            Self::WaitEntrypoint => 0x28,
            Self::Memory => 0x29,
            Self::WriteFile(_) => 0x2A,
            Self::ReadFile { .. } => 0x2B,
            Self::CopyIn { .. } => 0x2F,
            Self::CopyOut { .. } => 0x30,
            Self::Connect { .. } => 0x2C,
            Self::Listen { .. } => 0x2D,
            Self::Accept { .. } => 0x2E,
            Self::Datagrams { .. } => 0x38,
        }
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Attach(container) => out.put(container),
            Self::Exec(command) => put_command(out, command),
            Self::Logs { follow } => out.put_bool(*follow),
            Self::SignalEntrypoint { signal } => out.put_u8(*signal),
            Self::WriteFile(file) => put_write_file(out, file),
            Self::ReadFile { path } | Self::CopyIn { path } | Self::CopyOut { path } => {
                out.put_byte_string(path);
            }
            Self::Connect { port, framed } => {
                out.put_u16(*port);
                out.put_bool(*framed);
            }
            Self::Listen { port } | Self::Datagrams { port } => out.put_u16(*port),
            Self::Accept { connection } => out.put_u32(*connection),
            Self::Start
            | Self::StartInit
            | Self::Listening
            | Self::Settle
            | Self::WaitEntrypoint
            | Self::Memory => {}
        }
    }

    fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let message = match kind {
            0x21 => return Ok(Self::Attach(payload.to_vec())),
            0x22 => Self::Start,
            0x37 => Self::StartInit,
            0x23 => Self::Exec(read_command(&mut reader)?),
            0x24 => Self::Listening,
            0x25 => Self::Logs { follow: reader.bool("follow")? },
            0x26 => Self::SignalEntrypoint { signal: read_signal(&mut reader)? },
            0x27 => Self::Settle,
            0x28 => Self::WaitEntrypoint,
            0x29 => Self::Memory,
            0x2A => Self::WriteFile(read_write_file(&mut reader)?),
            0x2B => Self::ReadFile { path: read_path(&mut reader, "path")? },
            0x2F => Self::CopyIn { path: read_path(&mut reader, "path")? },
            0x30 => Self::CopyOut { path: read_path(&mut reader, "path")? },
            0x2C => Self::Connect { port: read_port(&mut reader)?, framed: reader.bool("framed")? },
            0x2D => Self::Listen { port: reader.u16("port")? },
            0x2E => Self::Accept { connection: reader.u32("connection")? },
            0x38 => Self::Datagrams { port: read_port(&mut reader)? },
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

fn put_after_restore(out: &mut Vec<u8>, after_restore: &AfterRestore) {
    out.put_option(after_restore.action.as_ref(), |out, action| {
        let (kind, signal, argv) = match action {
            Action::Restart { signal } => (0, *signal, [].as_slice()),
            Action::Signal(signal) => (1, *signal, [].as_slice()),
            Action::Exec(argv) => (2, 0, argv.as_slice()),
        };
        out.put_u8(kind);
        out.put_u8(signal);
        put_strings(out, argv);
    });
    out.put_u64(after_restore.timeout_ms);
}

fn read_after_restore(reader: &mut Reader<'_>) -> Result<AfterRestore, DecodeError> {
    let action = reader.option("action", read_action)?;
    match reader.u64("timeout")? {
        0 => Err(reader.illegal("timeout", 0)),
        timeout_ms => Ok(AfterRestore { action, timeout_ms }),
    }
}

fn put_readiness(out: &mut Vec<u8>, readiness: &Readiness) {
    let (kind, words) = match readiness {
        Readiness::Started => (0, [].as_slice()),
        Readiness::Writes(text) => (1, core::slice::from_ref(text)),
        Readiness::Answers(argv) => (2, argv.as_slice()),
    };
    out.put_u8(kind);
    put_strings(out, words);
}

fn read_readiness(reader: &mut Reader<'_>) -> Result<Readiness, DecodeError> {
    let kind = reader.u8("readiness")?;
    let words = read_strings(reader, "words")?;
    match (kind, <[_; 1]>::try_from(words)) {
        (0, Err(words)) if words.is_empty() => Ok(Readiness::Started),
        (1, Ok([text])) if !text.is_empty() => Ok(Readiness::Writes(text)),
        (2, Ok(words)) => Ok(Readiness::Answers(words.into())),
        (2, Err(words)) if !words.is_empty() => Ok(Readiness::Answers(words)),
        _ => Err(reader.illegal("readiness", kind.into())),
    }
}

fn read_action(reader: &mut Reader<'_>) -> Result<Action, DecodeError> {
    let kind = reader.u8("action")?;
    let signal = if kind == 2 { reader.u8("signal")? } else { read_signal(reader)? };
    let argv = read_strings(reader, "argv")?;
    match (kind, signal, argv.is_empty()) {
        (0, _, true) => Ok(Action::Restart { signal }),
        (1, _, true) => Ok(Action::Signal(signal)),
        (2, 0, false) => Ok(Action::Exec(argv)),
        _ => Err(reader.illegal("action", kind.into())),
    }
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    put_strings(out, &command.argv);
    put_strings(out, &command.env);
    out.put_bool(command.env_clear);
    out.put_option(command.cwd.as_ref(), |out, cwd| out.put_byte_string(cwd));
    out.put_option(command.user.as_ref(), |out, user| out.put_byte_string(user.as_bytes()));
    out.put_u64(command.timeout_ms);
    out.put_bool(command.stdin);
    out.put_option(command.terminal.as_ref(), |out, size| put_window(out, *size));
    out.put_list(&command.files, |out, file| {
        out.put_byte_string(&file.path);
        out.put_u16(file.mode);
        out.put_byte_string(&file.content);
    });
    out.put_list(&command.chain, |out, argv| put_strings(out, argv));
    // Agents in older snapshots know no limits.
    if !command.ulimits.is_empty() {
        put_ulimits(out, &command.ulimits);
    }
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
        terminal: reader.option("terminal", read_window)?,
        files: reader.list("files", MAX_PARTS, 10, read_staged_file)?,
        chain: reader.list("chain", MAX_PARTS, 4, |r| read_strings(r, "chain"))?,
        ulimits: if reader.remaining() == 0 { Vec::new() } else { read_some_ulimits(reader)? },
    })
}

/// Reads limits, of which there is at least one.
fn read_some_ulimits(reader: &mut Reader<'_>) -> Result<Vec<Ulimit>, DecodeError> {
    let ulimits = read_ulimits(reader)?;
    if ulimits.is_empty() { Err(reader.illegal("ulimits", 0)) } else { Ok(ulimits) }
}

fn read_staged_file(reader: &mut Reader<'_>) -> Result<StagedFile, DecodeError> {
    Ok(StagedFile {
        path: read_path(reader, "path")?,
        mode: read_mode(reader)?,
        content: reader.byte_string("content", MAX_PAYLOAD)?.into(),
    })
}

fn put_write_file(out: &mut Vec<u8>, file: &WriteFile) {
    out.put_byte_string(&file.path);
    out.put_option(file.mode.as_ref(), |out, mode| out.put_u16(*mode));
    out.put_option(file.owner.as_ref(), |out, owner| out.put_byte_string(owner.as_bytes()));
    out.put_bool(file.append);
}

fn read_write_file(reader: &mut Reader<'_>) -> Result<WriteFile, DecodeError> {
    Ok(WriteFile {
        path: read_path(reader, "path")?,
        mode: reader.option("mode", read_mode)?,
        owner: reader.option("owner", |r| r.string("owner", MAX_NAME))?,
        append: reader.bool("append")?,
    })
}
