//! A command's stream to the agent, for blocking callers.
//!
//! It has no thread: one of the waiting callers reads the stream for all of them. So output that
//! nobody waits for stays in the guest, which blocks when its pipe is full. The [`Conversation`]
//! defines the protocol.
//!
//! Locks: `state` is held for moments only, never while the stream is waited for; `sending` is
//! held while frames are sent, so that they keep their order, and `state` is taken under it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::conversation::{Conversation, PreparedCommand, TakenOutput};
use super::outcome::{CollectedOutput, ExecOutcome};
use crate::Error;
use crate::agent::PIECE;
use crate::machine::{AgentStream, MachineHandle};
use supermachine_vmm::receive_now;

/// The shortest time-out that a socket takes.
const SHORTEST: Duration = Duration::from_micros(1);

/// The stream. See the module.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    machine: Arc<dyn MachineHandle>,
    state: Mutex<State>,
    /// Signalled at each change of `state`.
    changed: Condvar,
    sending: Mutex<()>,
}

#[derive(Debug)]
struct State {
    talk: Conversation,
    /// Whether a caller reads the stream.
    is_reading: bool,
}

impl Session {
    /// Sends a command.
    pub(super) fn open(
        machine: &Arc<dyn MachineHandle>,
        command: PreparedCommand,
    ) -> Result<Self, Error> {
        Ok(Self::on(AgentStream::open(machine, &command.bytes)?, command.talk))
    }

    /// A session on a stream on which the command was sent.
    pub(super) fn on(stream: AgentStream, talk: Conversation) -> Self {
        let AgentStream { stream, machine } = stream;
        let state = Mutex::new(State { talk, is_reading: false });
        Self { stream, machine, state, changed: Condvar::new(), sending: Mutex::new(()) }
    }

    /// Waits for the command to exit, and passes its output of the wanted streams to `take`.
    pub(super) fn drain(
        &self,
        stdout: bool,
        stderr: bool,
        take: &mut dyn FnMut(&TakenOutput) -> Result<(), Error>,
    ) -> Result<ExecOutcome, Error> {
        loop {
            let taken = self.wait(|talk| talk.take(stdout, stderr));
            take(&taken)?;
            if let Some(end) = taken.end {
                return ExecOutcome::of(end);
            }
        }
    }

    /// Waits for the command to exit, and collects its output of the wanted streams.
    pub(super) fn collect(
        &self,
        stdout: bool,
        stderr: bool,
        limit: usize,
    ) -> Result<ExecOutcome, Error> {
        let mut kept = CollectedOutput::new(limit);
        let outcome = self.drain(stdout, stderr, &mut |taken| kept.add(taken))?;
        Ok(kept.into_outcome(outcome))
    }

    /// Blocks until `find` returns a value, and reads the stream meanwhile unless another caller
    /// does.
    pub(super) fn wait<T>(&self, mut find: impl FnMut(&mut Conversation) -> Option<T>) -> T {
        let mut state = self.lock();
        let mut space = Vec::new();
        loop {
            let found = find(&mut state.talk);
            if found.is_some() && !state.is_reading {
                state.talk.end_wait();
            }
            let has_unsent = state.talk.has_unsent();
            if found.is_some() || has_unsent {
                drop(state);
                self.changed.notify_all();
                if has_unsent {
                    // A failure shows in the result.
                    let _ = self.flush();
                }
                if let Some(found) = found {
                    return found;
                }
                state = self.lock();
                continue;
            }
            if state.is_reading || !state.talk.takes_bytes() {
                // Another caller waits for the guest, or must make room first.
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_reading = true;
            state.talk.begin_wait();
            let until = state.talk.given_up_at();
            drop(state);
            space.resize(PIECE, 0);
            let received = self.receive(until, &mut space);
            let received = self.judged(received);
            state = self.lock();
            state.is_reading = false;
            if received > 0 {
                state.talk.feed(&space[..received]);
            }
            drop(state);
            self.changed.notify_all();
            state = self.lock();
        }
    }

    /// Changes the state without waiting.
    pub(super) fn now<T>(&self, work: impl FnOnce(&mut Conversation) -> T) -> io::Result<T> {
        let done = work(&mut self.lock().talk);
        self.changed.notify_all();
        self.flush()?;
        Ok(done)
    }

    /// Processes received bytes without blocking, unless another caller reads the stream.
    pub(super) fn take_arrived(&self) {
        loop {
            let mut state = self.lock();
            if state.is_reading || !state.talk.takes_bytes() {
                return;
            }
            let received = state.talk.fill(|space| receive_now(&self.stream, space));
            drop(state);
            if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            self.judged(received);
            self.changed.notify_all();
            // A failure shows in the result.
            let _ = self.flush();
        }
    }

    /// Closes the stream, which kills the command.
    pub(super) fn abandon(&self) {
        let is_to_end = self.lock().talk.abandon();
        self.changed.notify_all();
        if is_to_end {
            // It fails for a stream that is closed already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends the queued frames, and blocks while there is no room.
    fn flush(&self) -> io::Result<()> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut state = self.lock();
            let unsent = state.talk.take_unsent();
            if unsent.is_empty() {
                return Ok(());
            }
            state.talk.begin_wait();
            drop(state);
            let sent = self.send(&unsent);
            let mut state = self.lock();
            if !state.is_reading {
                state.talk.end_wait();
            }
            drop(state);
            if let Err(error) = sent {
                self.lock().talk.not_sent(error.kind());
                self.changed.notify_all();
                return match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(error),
                };
            }
        }
    }

    /// Sends bytes, and blocks until the reply deadline.
    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let until = self.lock().talk.given_up_at();
            if let Some(until) = until {
                let left = until.saturating_duration_since(Instant::now());
                // A time-out of zero would be none.
                self.stream.set_write_timeout(Some(left.max(SHORTEST)))?;
            }
            match (&self.stream).write(bytes) {
                Ok(count) => bytes = bytes.split_at(count).1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {
                    let mut state = self.lock();
                    state.talk.judge(Instant::now());
                    if state.talk.exit().is_some() {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives bytes, and blocks until the reply deadline.
    fn receive(&self, until: Option<Instant>, space: &mut [u8]) -> io::Result<usize> {
        let Some(until) = until else { return (&self.stream).read(space) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return receive_now(&self.stream, space);
        }
        self.stream.set_read_timeout(Some(left))?;
        (&self.stream).read(space)
    }

    /// The number of received bytes. If it is 0, checks whether the command has failed.
    fn judged(&self, received: io::Result<usize>) -> usize {
        match received {
            Ok(count @ 1..) => return count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => {
                self.lock().talk.judge(Instant::now());
            }
            // This side may have closed the stream.
            Ok(_) | Err(_) if self.lock().talk.exit().is_some() => {}
            Ok(_) | Err(_) => {
                let end = self.machine.wait_exit();
                self.lock().talk.fail(end);
            }
        }
        0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a socket had nothing, or no room, for as long as was asked.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
