//! The threads that wait for the host's file system, so that no device does: a few per device.
//!
//! They start with the first request. Dropping the [`Workers`] has each stop after what it is at, without
//! waiting for it: a file system that hangs would hold the machine otherwise. [`Workers::finish`] waits.
//!
//! Lock: `state` is held for moments only, and nothing is taken under it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use super::event_loop::DeviceEvents;

/// Threads of one device.
const THREADS: usize = 2;

/// What answers a device's requests. Several threads ask it at once.
pub(super) trait Serve: Debug + Send + Sync + 'static {
    /// Answers a request with at most `room` bytes.
    fn serve(&self, request: &[u8], room: usize) -> Vec<u8>;
}

/// A request that is to be answered.
#[derive(Debug)]
pub(super) struct Job {
    /// The device's name for it.
    pub(super) ticket: u64,
    pub(super) request: Vec<u8>,
    /// The most bytes of the answer.
    pub(super) room: usize,
}

/// The threads of a device.
#[derive(Debug)]
pub(super) struct Workers<S: ?Sized + Serve> {
    shared: Arc<Shared<S>>,
}

#[derive(Debug)]
struct Shared<S: ?Sized> {
    events: DeviceEvents,
    state: Mutex<State<S>>,
    /// There is a job, a job is done, or there is nothing more to do.
    changed: Condvar,
}

#[derive(Debug)]
struct State<S: ?Sized> {
    /// `None` once there is nothing more to do.
    server: Option<Arc<S>>,
    jobs: VecDeque<Job>,
    /// Tickets with their answers.
    done: Vec<(u64, Vec<u8>)>,
    /// Jobs that threads are at.
    busy: usize,
}

impl<S: ?Sized + Serve> Workers<S> {
    /// Starts the threads, with this name. Each answer is announced to the device as an event.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(super) fn start(name: &str, server: Arc<S>, events: DeviceEvents) -> io::Result<Self> {
        let (jobs, done, busy) = (VecDeque::new(), Vec::new(), 0);
        let state = Mutex::new(State { server: Some(server), jobs, done, busy });
        // Dropped on an error, which stops those that have started.
        let workers = Self { shared: Arc::new(Shared { events, state, changed: Condvar::new() }) };
        for _ in 0..THREADS {
            let shared = Arc::clone(&workers.shared);
            Builder::new().name(name.into()).spawn(move || shared.run())?;
        }
        Ok(workers)
    }

    /// Adds a job.
    pub(super) fn add(&self, job: Job) {
        self.shared.lock().jobs.push_back(job);
        self.shared.changed.notify_one();
    }

    /// The answers since the last call.
    pub(super) fn take_done(&self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.shared.lock().done)
    }

    /// Drops the jobs that no thread has begun, and waits for the others: no thread uses the server
    /// then. May be called under a device's lock.
    pub(super) fn finish(self) {
        self.shared.end();
        let mut state = self.shared.lock();
        while state.busy > 0 {
            state = self.shared.wait(state);
        }
    }
}

impl<S: ?Sized + Serve> Drop for Workers<S> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<S: ?Sized + Serve> Shared<S> {
    fn end(&self) {
        let mut state = self.lock();
        state.server = None;
        state.jobs.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn run(&self) {
        while let Some((server, Job { ticket, request, room })) = self.next() {
            let answer = server.serve(&request, room);
            drop(server);
            let mut state = self.lock();
            state.done.push((ticket, answer));
            state.busy -= 1;
            drop(state);
            self.changed.notify_all();
            self.events.deliver(0);
        }
    }

    /// Waits for a job; `None` if there will be no more.
    fn next(&self) -> Option<(Arc<S>, Job)> {
        let mut state = self.lock();
        loop {
            let server = Arc::clone(state.server.as_ref()?);
            if let Some(job) = state.jobs.pop_front() {
                state.busy += 1;
                return Some((server, job));
            }
            drop(server);
            state = self.wait(state);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<S>>) -> MutexGuard<'a, State<S>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
