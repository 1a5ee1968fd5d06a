//! The protocol of one command, as a state machine.
//!
//! It does no I/O: a driver, the blocking [`Session`](super::session::Session) or the one of
//! `async_`, reads bytes for it and sends its frames. So both behave alike, and an interrupted
//! driver loses nothing.
//!
//! Unread output is kept up to a limit, at which the guest has to pause that stream. Input is sent
//! as far as its window allows, and further as the program reads.
//!
//! Each query returns `None` until the answer is known.

use std::io;
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Exit, Flow, Input, MAX_CHUNK, Message, Output, Reply, STDIN_WINDOW,
};

use super::queue::Queue;
use crate::agent::{Backlog, Frames};
use crate::machine::StreamError;

/// How long callers wait for the guest in total once the command's timeout has passed.
const GRACE: Duration = Duration::from_secs(10);
/// The most output after that: several times the capacity of the guest's pipes.
const LATE_LIMIT: usize = 8 << 20;

/// The protocol of one command. See the module.
#[derive(Debug)]
pub(crate) struct Conversation {
    frames: Frames,
    is_started: bool,
    stdout: Queue,
    stderr: Queue,
    stdin: Stdin,
    /// How much more input the agent accepts.
    window: usize,
    /// Initial input that is not sent yet.
    input: Backlog,
    /// Frames to send.
    outbox: Backlog,
    /// Whether the stream accepts no more frames.
    is_mute: bool,
    deadline: Option<ReplyDeadline>,
    /// When a caller began to wait for the guest.
    waiting_since: Option<Instant>,
    /// How long callers have waited since the command's timeout.
    waited: Duration,
    /// The number of bytes received since then.
    late: usize,
    end: Option<Result<Exit, StreamError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// Open for writes.
    Open,
    /// Closed for writes; waiting input is still sent.
    ExitProbe,
    /// Closed by this side.
    Ended,
    /// Closed by the program.
    Closed,
}

/// How long a guest is waited for. Time that the caller spends elsewhere does not count, and output does
/// not extend it: a broken guest may never stop sending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyDeadline {
    /// When the command's timeout passes.
    over: Instant,
    grace: Duration,
    /// The timeout and the grace period together.
    limit: Duration,
}

impl ReplyDeadline {
    /// The deadline for a command with this timeout.
    pub(crate) fn with(timeout: Duration) -> Option<Self> {
        Self::new(timeout, GRACE)
    }

    pub(crate) fn new(timeout: Duration, grace: Duration) -> Option<Self> {
        let over = Instant::now().checked_add(timeout)?;
        Some(Self { over, grace, limit: timeout.saturating_add(grace) })
    }
}

/// A command that is ready to send.
#[derive(Debug)]
pub(crate) struct PreparedCommand {
    /// The first bytes of the stream.
    pub(crate) bytes: Vec<u8>,
    /// The rest of its protocol.
    pub(crate) talk: Conversation,
    /// The limit on each collected stream.
    pub(crate) max_output: usize,
}

/// Output, and the command's result once it has one.
#[derive(Debug)]
pub(crate) struct TakenOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<Result<Exit, StreamError>>,
}

impl Conversation {
    /// For a command without input.
    pub(crate) fn new(deadline: Option<ReplyDeadline>) -> Self {
        Self {
            frames: Frames::default(),
            is_started: false,
            stdout: Queue::default(),
            stderr: Queue::default(),
            stdin: Stdin::Ended,
            window: STDIN_WINDOW,
            input: Backlog::default(),
            outbox: Backlog::default(),
            is_mute: false,
            deadline,
            waiting_since: None,
            waited: Duration::ZERO,
            late: 0,
            end: None,
        }
    }

    /// Adds input: `sent` bytes went with the request, `rest` follows, and then later writes if the
    /// input is `open`.
    pub(crate) fn with_input(mut self, sent: usize, rest: Vec<u8>, open: bool) -> Self {
        self.window -= sent;
        self.input = Backlog::of(rest);
        self.stdin = if open { Stdin::Open } else { Stdin::ExitProbe };
        self.offer();
        self
    }

    /// Whether the program has started.
    pub(crate) fn started(&self) -> Option<Result<(), StreamError>> {
        match &self.end {
            _ if self.is_started => Some(Ok(())),
            Some(Err(end)) => Some(Err(end.clone())),
            Some(Ok(_)) => Some(Ok(())),
            None => None,
        }
    }

    /// The command's result.
    pub(crate) fn exit(&self) -> Option<Result<Exit, StreamError>> {
        self.end.clone()
    }

    /// Reads output; 0 bytes once the command has exited and all is read.
    pub(crate) fn read(&mut self, output: Output, space: &mut [u8]) -> Option<io::Result<usize>> {
        if space.is_empty() {
            return Some(Ok(0));
        }
        let count = self.queue(output).take(space);
        if count == 0 {
            return Some(self.end.clone()?.map(|_| 0).map_err(StreamError::into_io));
        }
        self.turn_flows();
        Some(Ok(count))
    }

    /// Takes the waiting output of the wanted streams, once there is some or the command has
    /// exited.
    pub(crate) fn take(&mut self, stdout: bool, stderr: bool) -> Option<TakenOutput> {
        let take = |queue: &mut Queue, wanted| if wanted { queue.take_all() } else { Vec::new() };
        let stdout = take(&mut self.stdout, stdout);
        let stderr = take(&mut self.stderr, stderr);
        let end = self.end.clone();
        if stdout.is_empty() && stderr.is_empty() && end.is_none() {
            return None;
        }
        self.turn_flows();
        Some(TakenOutput { stdout, stderr, end })
    }

    /// Accepts as much input as the window allows, and returns its size.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match (&self.end, self.stdin) {
            (Some(Err(end)), _) => return Some(Err(end.clone().into_io())),
            (None, Stdin::Open) => {}
            _ => return Some(Err(io::ErrorKind::BrokenPipe.into())),
        }
        if bytes.is_empty() {
            return Some(Ok(0));
        }
        // A stream that accepts no more frames is about to report the result.
        if self.is_mute || self.window == 0 || !self.input.is_empty() {
            return None;
        }
        let count = bytes.len().min(MAX_CHUNK).min(self.window);
        self.window -= count;
        self.tell(&Input::Data(bytes[..count].to_vec()));
        Some(Ok(count))
    }

    /// Closes the input after the waiting part of it.
    pub(crate) fn end_input(&mut self) {
        if self.stdin == Stdin::Open {
            self.stdin = Stdin::ExitProbe;
            self.offer();
        }
    }

    /// Closes an output: the program's next write to it fails.
    pub(crate) fn close(&mut self, output: Output) {
        if self.queue(output).close() {
            self.tell(&Input::Flow { output, flow: Flow::Closed });
        }
    }

    /// Queues a message, unless the command has exited.
    pub(crate) fn tell(&mut self, input: &Input) {
        if self.end.is_none() && !self.is_mute {
            input.encode(self.outbox.end());
        }
    }

    /// The queued frames.
    #[cfg(feature = "tokio")]
    pub(crate) fn unsent(&self) -> &[u8] {
        self.outbox.waiting()
    }

    /// Consumes frames that were sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn sent(&mut self, count: usize) {
        self.outbox.gone(count);
    }

    /// Takes the queued frames.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        self.outbox.take()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Records that the stream accepts no more frames. After a broken pipe, the agent's last reply
    /// is about to arrive.
    pub(crate) fn not_sent(&mut self, error: io::ErrorKind) {
        self.is_mute = true;
        self.outbox = Backlog::default();
        if error != io::ErrorKind::BrokenPipe {
            self.fail(StreamError::Stream(error));
        }
    }

    /// Whether the driver may read more bytes.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.end.is_none() && !self.stdout.is_full() && !self.stderr.is_full()
    }

    /// Processes received bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
        self.digest(bytes.len());
    }

    /// Has `read` fill a buffer, processes the bytes, and returns their number.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let count = self.frames.fill(read)?;
        if count > 0 {
            self.digest(count);
        }
        Ok(count)
    }

    /// Fails it, unless it has a result.
    pub(crate) fn fail(&mut self, end: StreamError) {
        if self.end.is_none() {
            self.end = Some(Err(end));
            self.outbox = Backlog::default();
        }
    }

    /// Cancels the command. Returns whether the stream must be closed for that.
    pub(crate) fn abandon(&mut self) -> bool {
        let is_over = self.end.is_some();
        self.fail(StreamError::Abandoned);
        !is_over
    }

    /// Records that a caller waits for the guest.
    pub(crate) fn begin_wait(&mut self) {
        if self.deadline.is_some() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    /// Records that no caller waits.
    pub(crate) fn end_wait(&mut self) {
        if let (Some(since), Some(deadline)) = (self.waiting_since.take(), self.deadline) {
            self.waited += since.max(deadline.over).elapsed();
        }
    }

    /// When the guest is given up if the wait continues.
    pub(crate) fn given_up_at(&self) -> Option<Instant> {
        let ReplyDeadline { over, grace, .. } = self.deadline?;
        let since = self.waiting_since.unwrap_or_else(Instant::now).max(over);
        since.checked_add(grace.saturating_sub(self.waited))
    }

    /// Gives the guest up if callers have waited long enough.
    pub(crate) fn judge(&mut self, now: Instant) {
        let Some(ReplyDeadline { limit, .. }) = self.deadline else { return };
        if self.given_up_at().is_some_and(|at| at <= now) {
            self.fail(StreamError::Unanswered { limit });
        }
    }

    fn queue(&mut self, output: Output) -> &mut Queue {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    fn digest(&mut self, count: usize) {
        while self.end.is_none() {
            match self.frames.next::<Reply>() {
                Ok(Some(reply)) => self.hear(reply),
                Ok(None) => break,
                Err(source) => self.fail(StreamError::Protocol(source)),
            }
        }
        self.limit_late(count);
        self.turn_flows();
    }

    /// Gives up a guest that does not stop sending after the command's timeout.
    fn limit_late(&mut self, count: usize) {
        let Some(ReplyDeadline { over, limit, .. }) = self.deadline else { return };
        if Instant::now() >= over {
            self.late += count;
            if self.late > LATE_LIMIT {
                self.fail(StreamError::Unanswered { limit });
            }
        }
    }

    fn hear(&mut self, reply: Reply) {
        match reply {
            Reply::Started { .. } => self.is_started = true,
            Reply::Stdout(bytes) => self.stdout.push(&bytes),
            Reply::Stderr(bytes) => self.stderr.push(&bytes),
            Reply::StdinTaken(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                self.window = self.window.saturating_add(count).min(STDIN_WINDOW);
                self.offer();
            }
            Reply::StdinClosed => {
                self.stdin = Stdin::Closed;
                self.input = Backlog::default();
            }
            Reply::Exited(exit) => {
                self.end = Some(Ok(exit));
                self.outbox = Backlog::default();
            }
            Reply::Failed(failure) => self.fail(StreamError::Agent(failure)),
            _ => self.fail(StreamError::Unexpected { request: "exec" }),
        }
    }

    /// Queues waiting input as far as the window allows, and then its end.
    fn offer(&mut self) {
        while self.window > 0 && !self.input.is_empty() {
            let waiting = self.input.waiting();
            let count = waiting.len().min(MAX_CHUNK).min(self.window);
            let piece = waiting[..count].to_vec();
            self.tell(&Input::Data(piece));
            self.window -= count;
            self.input.gone(count);
        }
        if self.input.is_empty() {
            self.input = Backlog::default();
            if self.stdin == Stdin::ExitProbe {
                self.stdin = Stdin::Ended;
                self.tell(&Input::DataEnd);
            }
        }
    }

    /// Asks the guest to pause an output whose queue is full, and to resume one that has room.
    fn turn_flows(&mut self) {
        for output in [Output::Stdout, Output::Stderr] {
            if let Some(flow) = self.queue(output).turn() {
                self.tell(&Input::Flow { output, flow });
            }
        }
    }
}
