//! What host and agent say to each other about one command: what came, what may go, and when.
//!
//! Owns the state of a command's stream and its rules, and does no I/O: whoever drives it, the
//! blocking [`Session`](super::session::Session) or the one of `async_`, reads for it and sends
//! what it has to send. So both behave alike, and a driver that is interrupted anywhere loses
//! nothing.
//!
//! Output that nobody takes is kept up to a limit, at which the guest is told to pause that
//! stream. Input goes as far as its window allows, and on when the guest has taken some.
//!
//! Each question gives nothing while the answer is not known, and the same answer ever after.

use std::io;
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Exit, Flow, Input, MAX_CHUNK, Message, Output, Reply, STDIN_WINDOW,
};

use super::queue::Queue;
use crate::agent::{Backlog, End, Frames};

/// How much longer than a command's own time-out the guest may say nothing.
const GRACE: Duration = Duration::from_secs(10);

/// The conversation. See the module.
#[derive(Debug)]
pub(crate) struct Conversation {
    frames: Frames,
    is_started: bool,
    stdout: Queue,
    stderr: Queue,
    stdin: Stdin,
    /// How much input may be sent.
    window: usize,
    /// Input that was there at the beginning, and is still to be sent.
    input: Backlog,
    /// Frames that are to be sent.
    outbox: Backlog,
    /// Whether nothing can be sent any more.
    is_mute: bool,
    patience: Option<Patience>,
    /// When something came or was taken.
    stirred: Instant,
    end: Option<Result<Exit, End>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// More may be written.
    Open,
    /// No more is written; what waits is still to go.
    Ending,
    /// We ended it.
    Ended,
    /// The program takes no more.
    Closed,
}

/// How long a guest may say nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// When the command's own time is over.
    over: Instant,
    grace: Duration,
    /// Both from the beginning on.
    limit: Duration,
}

impl Patience {
    /// That for a command with this time-out.
    pub(crate) fn with(timeout: Duration) -> Option<Self> {
        Self::new(timeout, GRACE)
    }

    pub(crate) fn new(timeout: Duration, grace: Duration) -> Option<Self> {
        let over = Instant::now().checked_add(timeout)?;
        Some(Self { over, grace, limit: timeout.saturating_add(grace) })
    }
}

/// Output that was taken out, and how the command ended, if it has.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<Result<Exit, End>>,
}

impl Conversation {
    /// About a command that reads nothing.
    pub(crate) fn new(patience: Option<Patience>) -> Self {
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
            patience,
            stirred: Instant::now(),
            end: None,
        }
    }

    /// About one that reads: `sent` bytes have gone already, then goes `rest`, and behind it what
    /// is written later, if it is `open`.
    pub(crate) fn with_input(mut self, sent: usize, rest: Vec<u8>, open: bool) -> Self {
        self.window -= sent;
        self.input = Backlog::of(rest);
        self.stdin = if open { Stdin::Open } else { Stdin::Ending };
        self.offer();
        self
    }

    /// Whether the program runs.
    pub(crate) fn started(&self) -> Option<Result<(), End>> {
        match &self.end {
            _ if self.is_started => Some(Ok(())),
            Some(Err(end)) => Some(Err(end.clone())),
            Some(Ok(_)) => Some(Ok(())),
            None => None,
        }
    }

    /// How the command ended.
    pub(crate) fn exit(&self) -> Option<Result<Exit, End>> {
        self.end.clone()
    }

    /// Reads output; 0 bytes once the command has ended and there is no more.
    pub(crate) fn read(&mut self, output: Output, space: &mut [u8]) -> Option<io::Result<usize>> {
        if space.is_empty() {
            return Some(Ok(0));
        }
        let count = self.queue(output).take(space);
        if count == 0 {
            return Some(self.end.clone()?.map(|_| 0).map_err(End::into_io));
        }
        self.stir();
        Some(Ok(count))
    }

    /// Takes out what waits of the outputs that are wanted, once there is some or the command
    /// has ended.
    pub(crate) fn take(&mut self, stdout: bool, stderr: bool) -> Option<Taken> {
        let take = |queue: &mut Queue, wanted| if wanted { queue.take_all() } else { Vec::new() };
        let stdout = take(&mut self.stdout, stdout);
        let stderr = take(&mut self.stderr, stderr);
        let end = self.end.clone();
        if stdout.is_empty() && stderr.is_empty() && end.is_none() {
            return None;
        }
        self.stir();
        Some(Taken { stdout, stderr, end })
    }

    /// Takes as much input as may be sent now; gives how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match (&self.end, self.stdin) {
            (Some(Err(end)), _) => return Some(Err(end.clone().into_io())),
            (None, Stdin::Open) => {}
            _ => return Some(Err(io::ErrorKind::BrokenPipe.into())),
        }
        if bytes.is_empty() {
            return Some(Ok(0));
        }
        // When nothing can be sent any more, the end is about to come.
        if self.is_mute || self.window == 0 || !self.input.is_empty() {
            return None;
        }
        let count = bytes.len().min(MAX_CHUNK).min(self.window);
        self.window -= count;
        self.tell(&Input::Data(bytes.get(..count).unwrap_or_default().to_vec()));
        Some(Ok(count))
    }

    /// Ends the input, behind what waits of it.
    pub(crate) fn end_input(&mut self) {
        if self.stdin == Stdin::Open {
            self.stdin = Stdin::Ending;
            self.offer();
        }
    }

    /// Takes no more of an output: the program's next write to it fails.
    pub(crate) fn close(&mut self, output: Output) {
        if self.queue(output).close() {
            self.tell(&Input::Flow { output, flow: Flow::Closed });
        }
    }

    /// Has a message sent; one for a command that has ended is dropped.
    pub(crate) fn tell(&mut self, input: &Input) {
        if self.end.is_none() && !self.is_mute {
            input.encode(self.outbox.end());
        }
    }

    /// What is to be sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn unsent(&self) -> &[u8] {
        self.outbox.waiting()
    }

    /// Notes that so much of it was sent.
    #[cfg(feature = "tokio")]
    pub(crate) fn sent(&mut self, count: usize) {
        self.outbox.gone(count);
    }

    /// Takes out what is to be sent.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        self.outbox.take()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Notes that nothing can be sent any more. Where the agent has closed the stream, how the
    /// command ended is on its way.
    pub(crate) fn not_sent(&mut self, error: io::ErrorKind) {
        self.is_mute = true;
        self.outbox = Backlog::default();
        if error != io::ErrorKind::BrokenPipe {
            self.fail(End::Stream(error));
        }
    }

    /// Whether more may be read from the stream.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.end.is_none() && !self.stdout.is_full() && !self.stderr.is_full()
    }

    /// Takes in what arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
        self.digest();
    }

    /// Takes in what `read` puts into the space that it is given; gives how much that was.
    pub(crate) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let count = self.frames.fill(read)?;
        if count > 0 {
            self.digest();
        }
        Ok(count)
    }

    /// Ends it, unless it has ended.
    pub(crate) fn fail(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(Err(end));
            self.outbox = Backlog::default();
        }
    }

    /// Gives it up. True: the stream is to be ended, and with it the command.
    pub(crate) fn abandon(&mut self) -> bool {
        let is_over = self.end.is_some();
        self.fail(End::Abandoned);
        !is_over
    }

    /// When the guest is given up, if it says nothing until then.
    pub(crate) fn given_up_at(&self) -> Option<Instant> {
        let Patience { over, grace, .. } = self.patience?;
        over.max(self.stirred).checked_add(grace)
    }

    /// Gives the guest up if it has said nothing for too long.
    pub(crate) fn judge(&mut self, now: Instant) {
        let Some(Patience { limit, .. }) = self.patience else { return };
        if self.given_up_at().is_some_and(|at| at <= now) {
            self.fail(End::Unanswered { limit });
        }
    }

    fn queue(&mut self, output: Output) -> &mut Queue {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    fn digest(&mut self) {
        while self.end.is_none() {
            match self.frames.next::<Reply>() {
                Ok(Some(reply)) => self.hear(reply),
                Ok(None) => break,
                Err(source) => self.fail(End::Protocol(source)),
            }
        }
        self.stir();
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
            Reply::Failed(failure) => self.fail(End::Agent(failure)),
            _ => self.fail(End::Unexpected { request: "exec" }),
        }
    }

    /// Has what waits of the input sent, as far as its window allows, and then its end.
    fn offer(&mut self) {
        while self.window > 0 && !self.input.is_empty() {
            let waiting = self.input.waiting();
            let count = waiting.len().min(MAX_CHUNK).min(self.window);
            let piece = waiting.get(..count).unwrap_or_default().to_vec();
            self.tell(&Input::Data(piece));
            self.window -= count;
            self.input.gone(count);
        }
        if self.input.is_empty() {
            self.input = Backlog::default();
            if self.stdin == Stdin::Ending {
                self.stdin = Stdin::Ended;
                self.tell(&Input::DataEnd);
            }
        }
    }

    /// Notes that something came or was taken, and tells the guest which output is to pause or to
    /// go on.
    fn stir(&mut self) {
        self.stirred = Instant::now();
        for output in [Output::Stdout, Output::Stderr] {
            if let Some(flow) = self.queue(output).turn() {
                self.tell(&Input::Flow { output, flow });
            }
        }
    }
}
