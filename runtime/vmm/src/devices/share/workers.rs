//! The threads that wait for the host's file system, so that no device does: `sm-share`, a few per folder.
//!
//! They start with the first request. Dropping the [`Workers`] has each stop after what it is at, without
//! waiting for it: a file system that hangs would hold the machine otherwise.
//!
//! Lock: `state` is held for moments only, and nothing is taken under it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use super::super::event_loop::DeviceEvents;
use super::super::file_server::FileServer;

/// Threads of one folder.
pub(super) const THREADS: usize = 2;
const THREAD_NAME: &str = "sm-share";

/// A request that is to be answered.
#[derive(Debug)]
pub(super) struct Job {
    /// The device's name for it.
    pub(super) ticket: u64,
    pub(super) request: Vec<u8>,
    /// The most bytes of the answer.
    pub(super) room: usize,
}

/// The threads of a folder's device.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: Arc<dyn FileServer>,
    events: DeviceEvents,
    state: Mutex<State>,
    /// There is a job, or nothing more to do.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Tickets with their answers.
    done: Vec<(u64, Vec<u8>)>,
    is_over: bool,
}

impl Workers {
    /// Starts the threads. Each answer is announced to the device as an event.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(super) fn start(server: Arc<dyn FileServer>, events: DeviceEvents) -> io::Result<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        // Dropped on an error, which stops those that have started.
        let workers = Self { shared: Arc::new(Shared { server, events, state, changed }) };
        for _ in 0..THREADS {
            let shared = Arc::clone(&workers.shared);
            Builder::new().name(THREAD_NAME.into()).spawn(move || shared.run())?;
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
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        state.jobs.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        while let Some(Job { ticket, request, room }) = self.next() {
            let answer = self.server.answer(&request, room);
            self.lock().done.push((ticket, answer));
            self.events.deliver(0);
        }
    }

    /// Waits for a job; `None` if there will be no more.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
