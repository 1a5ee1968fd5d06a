//! A command's stream to the agent, for those who wait.
//!
//! There is no thread behind it: whoever waits for something reads the stream for all, and tells
//! the others what came. So output that nobody waits for stays in the guest, which stops when
//! its pipe is full. What is said on the stream is the [`Conversation`]'s affair.
//!
//! Locks: `state` is held for moments only, never while the stream is waited for; `sending` is
//! held while frames are sent, so that they keep their order, and `state` is taken under it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::builder::Plan;
use super::conversation::{Conversation, Taken};
use super::outcome::{ExecOutcome, Kept};
use crate::agent::{Line, PIECE, Witness};
use crate::{Error, Vm};
use supermachine_vmm::receive_now;

/// The stream. See the module.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    witness: Witness,
    state: Mutex<State>,
    /// Told of every change of `state`.
    changed: Condvar,
    sending: Mutex<()>,
}

#[derive(Debug)]
struct State {
    talk: Conversation,
    /// Whether somebody reads the stream.
    is_reading: bool,
}

impl Session {
    /// Sends a command.
    pub(super) fn open(vm: &Vm, plan: Plan) -> Result<Self, Error> {
        Ok(Self::on(vm.dial(&plan.bytes)?, plan.talk))
    }

    /// A session on a stream that the command was sent on.
    pub(super) fn on(line: Line, talk: Conversation) -> Self {
        let Line { stream, witness } = line;
        let state = Mutex::new(State { talk, is_reading: false });
        Self { stream, witness, state, changed: Condvar::new(), sending: Mutex::new(()) }
    }

    /// Waits for the command's end, and hands out what it writes to the streams that are wanted.
    pub(super) fn drain(
        &self,
        stdout: bool,
        stderr: bool,
        take: &mut dyn FnMut(&Taken) -> Result<(), Error>,
    ) -> Result<ExecOutcome, Error> {
        loop {
            let taken = self.wait(|talk| talk.take(stdout, stderr));
            take(&taken)?;
            if let Some(end) = taken.end {
                return ExecOutcome::of(end);
            }
        }
    }

    /// The same, and keeps it.
    pub(super) fn collect(
        &self,
        stdout: bool,
        stderr: bool,
        limit: usize,
    ) -> Result<ExecOutcome, Error> {
        let mut kept = Kept::new(limit);
        let outcome = self.drain(stdout, stderr, &mut |taken| kept.add(taken))?;
        Ok(kept.into_outcome(outcome))
    }

    /// Waits until something is known, and reads the stream meanwhile if nobody else does.
    pub(super) fn wait<T>(&self, mut find: impl FnMut(&mut Conversation) -> Option<T>) -> T {
        let mut state = self.lock();
        let mut space = Vec::new();
        loop {
            let found = find(&mut state.talk);
            let has_unsent = state.talk.has_unsent();
            if found.is_some() || has_unsent {
                drop(state);
                self.changed.notify_all();
                if has_unsent {
                    // How it ended is told by what comes.
                    let _ = self.flush();
                }
                if let Some(found) = found {
                    return found;
                }
                state = self.lock();
                continue;
            }
            if state.is_reading || !state.talk.takes_bytes() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_reading = true;
            let until = state.talk.given_up_at();
            drop(state);
            space.resize(PIECE, 0);
            let received = self.receive(until, &mut space);
            let received = self.judged(received);
            state = self.lock();
            state.is_reading = false;
            if received > 0 {
                state.talk.feed(space.get(..received).unwrap_or_default());
            }
            drop(state);
            self.changed.notify_all();
            state = self.lock();
        }
    }

    /// Does something that is known at once.
    pub(super) fn now<T>(&self, work: impl FnOnce(&mut Conversation) -> T) -> io::Result<T> {
        let done = work(&mut self.lock().talk);
        self.changed.notify_all();
        self.flush()?;
        Ok(done)
    }

    /// Takes in what has arrived, without waiting, unless somebody else reads the stream.
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
            // How it ended is told by what comes.
            let _ = self.flush();
        }
    }

    /// Ends the stream, and with it the command.
    pub(super) fn abandon(&self) {
        let is_to_end = self.lock().talk.abandon();
        self.changed.notify_all();
        if is_to_end {
            // A stream that has ended already needs no closing.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends what is to be sent; waits while there is no room for it.
    fn flush(&self) -> io::Result<()> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let unsent = self.lock().talk.take_unsent();
            if unsent.is_empty() {
                return Ok(());
            }
            if let Err(error) = (&self.stream).write_all(&unsent) {
                self.lock().talk.not_sent(error.kind());
                self.changed.notify_all();
                return match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(error),
                };
            }
        }
    }

    /// Receives bytes; waits for them until the guest is to be given up.
    fn receive(&self, until: Option<Instant>, space: &mut [u8]) -> io::Result<usize> {
        let Some(until) = until else { return (&self.stream).read(space) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return receive_now(&self.stream, space);
        }
        self.stream.set_read_timeout(Some(left))?;
        (&self.stream).read(space)
    }

    /// How much was received. Where that is nothing, finds out whether it is over.
    fn judged(&self, received: io::Result<usize>) -> usize {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        match received {
            Ok(count @ 1..) => return count,
            Err(error) if error.kind() == Interrupted => {}
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {
                self.lock().talk.judge(Instant::now());
            }
            // We may have ended it ourselves.
            Ok(_) | Err(_) if self.lock().talk.exit().is_some() => {}
            Ok(_) | Err(_) => {
                let end = self.witness.end();
                self.lock().talk.fail(end);
            }
        }
        0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
