//! A command's stream to the agent, taken apart into its parts.
//!
//! There is no thread behind it: whoever waits for something reads the stream for all, and tells
//! the others what came. So output that nobody waits for stays in the guest, which stops when
//! its pipe is full. While somebody waits for one thing, the others' output is kept, up to a
//! limit at which the guest is told to pause that stream.
//!
//! Locks: `state` is held for moments only, never while the stream is read or written; `sending`
//! is held while a frame is sent, so that frames do not mix, and no lock is taken under it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Exit, Flow, Input, MAX_CHUNK, Message, Output, Reply, Request, STDIN_WINDOW,
};

use super::queue::Queue;
use crate::agent::{End, Frames, Line, frame};
use crate::machine::{Witness, receive_now};
use crate::{Error, Vm};

/// The most input that goes along with the request.
pub(super) const ALONG: usize = 64 << 10;
/// What is read from the stream at once.
const PIECE: usize = 64 << 10;

/// The stream. See the module.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    witness: Witness,
    state: Mutex<State>,
    /// Told of every change of `state`.
    changed: Condvar,
    sending: Mutex<()>,
    /// When and after how long the guest is given up.
    deadline: Option<(Instant, Duration)>,
}

/// What came and what may go.
#[derive(Debug)]
struct State {
    frames: Frames,
    is_started: bool,
    stdout: Queue,
    stderr: Queue,
    /// How much input may be sent.
    window: usize,
    stdin: Stdin,
    end: Option<Result<Exit, End>>,
    /// Whether somebody reads the stream.
    is_reading: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    Open,
    /// We ended it.
    Ended,
    /// The program takes no more.
    Closed,
}

/// Output that was taken out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Session {
    /// Sends a command. `input` comes along with it, and is all if it says so.
    pub(super) fn open(
        vm: &Vm,
        request: &Request,
        limit: Option<Duration>,
        input: Option<(&[u8], bool)>,
    ) -> Result<Self, Error> {
        let mut bytes = frame(request)?;
        let (along, is_whole) = input.unwrap_or((&[], true));
        for piece in along.chunks(MAX_CHUNK) {
            Input::Data(piece.to_vec()).encode(&mut bytes);
        }
        if input.is_some() && is_whole {
            Input::DataEnd.encode(&mut bytes);
        }
        let deadline = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        let Line { stream, witness } = vm.dial(&bytes)?;
        let mut session = Self::on(stream, witness, deadline);
        let state = session.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.window -= along.len();
        if is_whole {
            state.stdin = Stdin::Ended;
        }
        Ok(session)
    }

    /// A session on a stream of a test.
    #[cfg(test)]
    pub(super) fn of_stream(stream: UnixStream, witness: Witness, limit: Option<Duration>) -> Self {
        Self::on(stream, witness, limit.map(|limit| (Instant::now() + limit, limit)))
    }

    /// A session on a stream that the request was sent on.
    fn on(stream: UnixStream, witness: Witness, deadline: Option<(Instant, Duration)>) -> Self {
        let state = State {
            frames: Frames::default(),
            is_started: false,
            stdout: Queue::default(),
            stderr: Queue::default(),
            window: STDIN_WINDOW,
            stdin: Stdin::Open,
            end: None,
            is_reading: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { stream, witness, state, changed, sending: Mutex::new(()), deadline }
    }

    /// Runs the command to its end, with the rest of its input, and hands out what it writes.
    pub(super) fn run(
        &self,
        input: &[u8],
        take: &mut dyn FnMut(&Taken) -> Result<(), Error>,
    ) -> Result<Exit, Error> {
        let mut rest = input;
        loop {
            rest = self.send_some(rest);
            let state = self.wait(|state| {
                let has_output = !state.stdout.is_empty() || !state.stderr.is_empty();
                has_output || state.end.is_some() || (!rest.is_empty() && state.wants_input())
            });
            let (taken, end) = self.take_from(state, true, true);
            take(&taken)?;
            if let Some(end) = end {
                return end.map_err(End::into_error);
            }
        }
    }

    /// Waits for the command's end, and hands out what it writes to the streams that are wanted.
    pub(super) fn drain(
        &self,
        stdout: bool,
        stderr: bool,
        take: &mut dyn FnMut(&Taken) -> Result<(), Error>,
    ) -> Result<Exit, Error> {
        loop {
            let state = self.wait(|state| {
                let has_stdout = stdout && !state.stdout.is_empty();
                has_stdout || (stderr && !state.stderr.is_empty()) || state.end.is_some()
            });
            let (taken, end) = self.take_from(state, stdout, stderr);
            take(&taken)?;
            if let Some(end) = end {
                return end.map_err(End::into_error);
            }
        }
    }

    /// Takes out what waits, and tells how the command ended, if it has.
    fn take_from(
        &self,
        mut state: MutexGuard<'_, State>,
        stdout: bool,
        stderr: bool,
    ) -> (Taken, Option<Result<Exit, End>>) {
        let mut taken = Taken::default();
        if stdout {
            taken.stdout = state.stdout.take_all();
        }
        if stderr {
            taken.stderr = state.stderr.take_all();
        }
        let end = state.end.clone();
        drop(state);
        self.changed.notify_all();
        self.turn();
        (taken, end)
    }

    /// Waits until the program runs.
    pub(super) fn started(&self) -> Result<(), Error> {
        let state = self.wait(|state| state.is_started || state.end.is_some());
        match &state.end {
            Some(Err(end)) if !state.is_started => Err(end.clone().into_error()),
            _ => Ok(()),
        }
    }

    /// Waits for the command's end.
    pub(super) fn exit(&self) -> Result<Exit, Error> {
        let state = self.wait(|state| state.end.is_some());
        let end = state.end.clone();
        end.unwrap_or(Err(End::AgentGone)).map_err(End::into_error)
    }

    /// How the command ended, if it has.
    pub(super) fn try_exit(&self) -> Result<Option<Exit>, Error> {
        self.take_arrived();
        self.lock().end.clone().transpose().map_err(End::into_error)
    }

    /// Takes in what has arrived, without waiting, unless somebody else reads the stream.
    fn take_arrived(&self) {
        let mut space = Vec::new();
        loop {
            let mut state = self.lock();
            if state.end.is_some() || state.is_reading || state.is_full() {
                return;
            }
            space.resize(PIECE, 0);
            match receive_now(&self.stream, &mut space) {
                Ok(count @ 1..) => state.feed(space.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => {
                    drop(state);
                    let end = End::find(&self.witness);
                    self.lock().end.get_or_insert(Err(end));
                    self.changed.notify_all();
                    return;
                }
            }
            drop(state);
            self.changed.notify_all();
            self.turn();
        }
    }

    /// Reads output; nothing once the command has ended and there is no more.
    pub(super) fn read(&self, output: Output, space: &mut [u8]) -> io::Result<usize> {
        if space.is_empty() {
            return Ok(0);
        }
        let mut state = self.wait(|state| {
            let is_empty = state.queue(output).is_empty();
            !is_empty || state.end.is_some()
        });
        let count = state.queue(output).take(space);
        let end = state.end.clone();
        drop(state);
        self.changed.notify_all();
        self.turn();
        match end {
            Some(Err(end)) if count == 0 => Err(end.into_io()),
            _ => Ok(count),
        }
    }

    /// Reads no more of an output: the program's next write to it fails.
    pub(super) fn close_output(&self, output: Output) {
        let mut state = self.lock();
        let told = state.queue(output).close() && state.end.is_none();
        drop(state);
        self.changed.notify_all();
        if told {
            // A stream that has ended has no flow either.
            let _ = self.send(&Input::Flow { output, flow: Flow::Closed });
        }
    }

    /// Sends input; waits while the program does not read what was sent.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        // Whether the program still reads, and has not ended, is to be known before.
        self.take_arrived();
        let mut state =
            self.wait(|state| state.wants_input() || !state.takes_input() || state.end.is_some());
        if let Some(Err(end)) = &state.end {
            return Err(end.clone().into_io());
        }
        if state.end.is_some() || !state.takes_input() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(MAX_CHUNK).min(state.window);
        state.window -= count;
        drop(state);
        let piece = bytes.get(..count).unwrap_or_default().to_vec();
        self.send(&Input::Data(piece))?;
        Ok(count)
    }

    /// Sends all of the input; a program that reads no more needs none.
    pub(super) fn send_all(&self, input: &[u8]) -> Result<(), Error> {
        let mut rest = input;
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                // What became of it is told by its end.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Ends the input.
    pub(super) fn end_input(&self) -> io::Result<()> {
        let mut state = self.lock();
        let is_told = state.stdin == Stdin::Open && state.end.is_none();
        if is_told {
            state.stdin = Stdin::Ended;
        }
        drop(state);
        if is_told { self.send(&Input::DataEnd) } else { Ok(()) }
    }

    /// Sends a message; one for a command that has ended is dropped.
    pub(super) fn send(&self, input: &Input) -> io::Result<()> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = (&self.stream).write_all(&input.to_frame());
        match sent {
            // How it ended is on its way to whoever waits.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// Ends the stream, and with it the command.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        let is_over = state.end.is_some();
        state.end.get_or_insert(Err(End::Abandoned));
        drop(state);
        self.changed.notify_all();
        if !is_over {
            // A stream that has ended already needs no closing.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends input while there is room for it, and its end behind the last of it; gives the rest.
    fn send_some<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        let mut rest = input;
        loop {
            let state = self.lock();
            if state.end.is_some() || state.stdin != Stdin::Open {
                return &[];
            }
            let has_room = state.window > 0;
            drop(state);
            if rest.is_empty() {
                // A failure is told by the command's end.
                let _ = self.end_input();
                return rest;
            }
            if !has_room {
                return rest;
            }
            match self.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(_) => return &[],
            }
        }
    }

    /// Tells the guest which output is to pause or to go on.
    fn turn(&self) {
        for output in [Output::Stdout, Output::Stderr] {
            let mut state = self.lock();
            if state.end.is_some() {
                return;
            }
            if let Some(flow) = state.queue(output).turn() {
                drop(state);
                // A stream that has ended has no flow either.
                let _ = self.send(&Input::Flow { output, flow });
            }
        }
    }

    /// Waits until something holds, and reads the stream meanwhile if nobody else does.
    fn wait(&self, holds: impl Fn(&mut State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let mut space = Vec::new();
        loop {
            if holds(&mut state) {
                return state;
            }
            if state.is_reading || state.is_full() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_reading = true;
            drop(state);
            space.resize(PIECE, 0);
            let received = self.receive(&mut space);
            state = self.lock();
            state.is_reading = false;
            match received {
                Ok(count) => state.feed(space.get(..count).unwrap_or_default()),
                Err(end) => {
                    state.end.get_or_insert(Err(end));
                }
            }
            drop(state);
            self.changed.notify_all();
            self.turn();
            state = self.lock();
        }
    }

    /// Receives bytes; waits for them.
    fn receive(&self, space: &mut [u8]) -> Result<usize, End> {
        loop {
            if let Some((moment, limit)) = self.deadline {
                let left = moment.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(End::Unanswered { limit });
                }
                let set = self.stream.set_read_timeout(Some(left));
                set.map_err(|error| End::Stream(error.kind()))?;
            }
            match (&self.stream).read(space) {
                Ok(0) => break,
                Ok(count) => return Ok(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut => {}
                    _ => break,
                },
            }
        }
        // We may have ended it ourselves.
        if let Some(Err(end)) = &self.lock().end {
            return Err(end.clone());
        }
        Err(End::find(&self.witness))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn queue(&mut self, output: Output) -> &mut Queue {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    fn is_full(&self) -> bool {
        self.stdout.is_full() || self.stderr.is_full()
    }

    fn takes_input(&self) -> bool {
        self.stdin == Stdin::Open
    }

    fn wants_input(&self) -> bool {
        self.takes_input() && self.window > 0
    }

    /// Takes in what arrived.
    fn feed(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
        while self.end.is_none() {
            match self.frames.next::<Reply>() {
                Ok(Some(reply)) => self.take(reply),
                Ok(None) => return,
                Err(source) => self.end = Some(Err(End::Protocol(source))),
            }
        }
    }

    fn take(&mut self, reply: Reply) {
        match reply {
            Reply::Started { .. } => self.is_started = true,
            Reply::Stdout(bytes) => self.stdout.push(&bytes),
            Reply::Stderr(bytes) => self.stderr.push(&bytes),
            Reply::StdinTaken(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                self.window = self.window.saturating_add(count).min(STDIN_WINDOW);
            }
            Reply::StdinClosed => self.stdin = Stdin::Closed,
            Reply::Exited(exit) => self.end = Some(Ok(exit)),
            Reply::Failed(failure) => self.end = Some(Err(End::Agent(failure))),
            _ => self.end = Some(Err(End::Unexpected { request: "exec" })),
        }
    }
}
