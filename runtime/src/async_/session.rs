//! A command's stream to the agent, for asynchronous callers.
//!
//! The [`Conversation`] defines its protocol, as for blocking callers. It has no task: a polled
//! caller reads for all and wakes the others, so output that nobody awaits stays in the guest. Only
//! frames that the stream has no room for are sent by a task, which exits after the last of them.
//!
//! All state is in the session and none in the futures: a dropped future loses nothing.
//!
//! Lock: `state` is held for moments, and no task is woken under it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};

use super::stream::{poll_read, register};
use super::waiters::Waiters;
use crate::Error;
use crate::exec::{Conversation, PreparedCommand};
use crate::machine::{AgentStream, EXIT_POLL_INTERVAL, MachineHandle};
use supermachine_vmm::{receive_now, send_now, shut_down};

/// The stream. See the module.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    machine: Arc<dyn MachineHandle>,
    state: Mutex<State>,
    waiters: Arc<Waiters>,
    /// Wakes all waiters.
    waker: Waker,
    /// The runtime of the task.
    runtime: Handle,
}

#[derive(Debug)]
struct State {
    talk: Conversation,
    /// When the stream closed by itself, and when to look for the reason again.
    ended: Option<(Instant, Instant)>,
    /// Whether a task sends the remaining frames.
    is_sending: bool,
}

impl State {
    fn takes_bytes(&self) -> bool {
        self.ended.is_none() && self.talk.takes_bytes()
    }
}

impl Session {
    /// Sends a command.
    pub(super) fn open(
        machine: &Arc<dyn MachineHandle>,
        command: PreparedCommand,
    ) -> Result<Arc<Self>, Error> {
        Self::on(AgentStream::open(machine, &command.bytes)?, command.talk)
    }

    /// A session on a stream on which the command was sent.
    pub(super) fn on(stream: AgentStream, talk: Conversation) -> Result<Arc<Self>, Error> {
        let AgentStream { stream, machine } = stream;
        let waiters = Arc::new(Waiters::default());
        let session = Arc::new(Self {
            stream: register(stream)?,
            machine,
            state: Mutex::new(State { talk, ended: None, is_sending: false }),
            waker: Waker::from(Arc::clone(&waiters)),
            waiters,
            runtime: Handle::current(),
        });
        session.send();
        Ok(session)
    }

    /// Changes the state without waiting.
    pub(super) fn now<T>(self: &Arc<Self>, work: impl FnOnce(&mut Conversation) -> T) -> T {
        let done = work(&mut self.lock().talk);
        self.waiters.wake_all();
        self.send();
        done
    }

    /// Processes what has arrived.
    pub(super) fn take_arrived(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            if !state.takes_bytes() {
                break;
            }
            let received = state.talk.fill(|space| receive_now(&self.stream, space));
            drop(state);
            match received {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.note_end(),
            }
            self.waiters.wake_all();
        }
        self.send();
    }

    /// Closes the stream, which kills the command.
    pub(super) fn abandon(&self) {
        let is_to_end = self.lock().talk.abandon();
        self.waiters.wake_all();
        if is_to_end {
            // It fails for a stream that is closed already.
            let _ = shut_down(&self.stream);
        }
    }

    /// Reads once. Ready: the state may have changed.
    fn poll_receive(&self, key: u64) -> Poll<()> {
        if !self.lock().takes_bytes() {
            return Poll::Pending;
        }
        let mut cx = Context::from_waker(&self.waker);
        let received = poll_read(&self.stream, &mut cx, || {
            self.lock().talk.fill(|space| self.stream.try_read(space))
        });
        match received {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(_) | Err(_)) => self.note_end(),
        }
        self.waiters.wake_others(key);
        Poll::Ready(())
    }

    /// Records that the stream closed by itself, and looks for the reason.
    fn note_end(&self) {
        let now = Instant::now();
        self.lock().ended.get_or_insert((now, now));
        self.judge(now);
    }

    /// Fails the command if the reason for a closed stream is known, or the reply deadline has
    /// passed.
    fn judge(&self, now: Instant) {
        let mut state = self.lock();
        let Some((since, _)) = state.ended else {
            // A reply in time may not have been read yet.
            if !matches!(state.talk.fill(|space| receive_now(&self.stream, space)), Ok(1..)) {
                state.talk.judge(now);
            }
            return;
        };
        match self.machine.exit_since(since) {
            Some(end) => state.talk.fail(end),
            None => state.ended = Some((since, now + EXIT_POLL_INTERVAL)),
        }
    }

    /// When to call [`judge`](Self::judge) next.
    fn judged_at(&self) -> Option<Instant> {
        let state = self.lock();
        match state.ended {
            _ if state.talk.exit().is_some() => None,
            Some((_, next)) => Some(next),
            // A full queue may hide a reply.
            None if !state.talk.takes_bytes() => None,
            None => state.talk.given_up_at(),
        }
    }

    /// Sends as much as fits, and leaves the rest to a task.
    fn send(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_sending || !state.talk.has_unsent() {
            return;
        }
        let sent = send_all(&mut state.talk, |bytes| send_now(&self.stream, bytes));
        if !sent {
            state.is_sending = true;
            drop(state);
            let session = Arc::clone(self);
            self.runtime.spawn(async move { session.send_rest().await });
        }
    }

    /// The task.
    async fn send_rest(&self) {
        loop {
            let ready = self.stream.writable().await;
            let mut state = self.lock();
            if let Err(error) = ready {
                state.talk.not_sent(error.kind());
            }
            // Under one lock: later frames need another task.
            state.is_sending = !send_all(&mut state.talk, |bytes| self.stream.try_write(bytes));
            if !state.is_sending {
                break;
            }
        }
        self.waiters.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends as much as fits. Returns whether no frame is left.
fn send_all(talk: &mut Conversation, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> bool {
    while talk.has_unsent() {
        match send(talk.unsent()) {
            Ok(count) => talk.sent(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => talk.not_sent(error.kind()),
        }
    }
    true
}

/// A caller that waits for a session.
#[derive(Debug)]
pub(super) struct Waiter {
    session: Arc<Session>,
    key: u64,
    /// Sleeps until the session is judged next.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Waiter {
    pub(super) fn new(session: &Arc<Session>) -> Self {
        Self { session: Arc::clone(session), key: session.waiters.key(), sleep: None }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Waits until `find` returns a value.
    pub(super) async fn wait<T>(
        &mut self,
        mut find: impl FnMut(&mut Conversation) -> Option<T>,
    ) -> T {
        poll_fn(|cx| self.poll(cx, &mut find)).await
    }

    /// Polls `find`, and reads the stream meanwhile.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut find: impl FnMut(&mut Conversation) -> Option<T>,
    ) -> Poll<T> {
        let (session, key) = (Arc::clone(&self.session), self.key);
        // Registered first, so that later bytes wake it.
        session.waiters.set(key, cx.waker());
        loop {
            let mut state = session.lock();
            let was_full = !state.takes_bytes();
            let found = find(&mut state.talk);
            let has_room = was_full && state.takes_bytes();
            if found.is_none() && state.takes_bytes() {
                state.talk.begin_wait();
            } else {
                state.talk.end_wait();
            }
            drop(state);
            session.send();
            if has_room {
                // The queue has room: other callers may read now.
                session.waiters.wake_others(key);
            }
            if let Some(found) = found {
                self.sleep = None;
                session.waiters.clear(key);
                return Poll::Ready(found);
            }
            if session.poll_receive(key).is_pending() && self.poll_time(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Judges the session when it is due. Ready: the state may have changed.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.session.judged_at() else {
            self.sleep = None;
            return Poll::Pending;
        };
        // What is due is not slept for: a future that is made anew for each poll would never wake.
        if at > Instant::now() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
            if sleep.deadline() != at.into() {
                sleep.as_mut().reset(at.into());
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.session.judge(Instant::now());
        self.session.waiters.wake_others(self.key);
        Poll::Ready(())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Others that wait say so again.
        self.session.lock().talk.end_wait();
        self.session.waiters.clear(self.key);
    }
}
