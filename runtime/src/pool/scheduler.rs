//! The scheduler of a pool: who gets which machine.
//!
//! It owns the [`PoolState`] and the work of the thread `sm-pool`, which resets returned machines,
//! keeps enough of them warm, and stops the others.
//!
//! A caller that finds no warm machine does not wait for the thread: it resets a returned machine
//! itself, or makes a new one while there is room.
//!
//! Invariants: the lock is held neither while a machine is made, reset or stopped, nor while a
//! waiter is woken. At most [`PoolOptions::max`] machines exist, including those that are being
//! made or stopped, and without those that were taken out for good. While a caller waits, nothing
//! is free: what becomes free goes to the head of the queue.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Grant, Idle, Manager, PoolOptions, PoolState, StateGuard, Urgency, Wakers};
use super::stats::PoolStats;
use crate::Error;

/// The backoff after a machine that no caller waits for could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// A pool's machines.
pub(crate) struct Scheduler<K: Manager> {
    pub(super) manager: K,
    pub(super) options: PoolOptions,
    state: Mutex<PoolState<K::Machine>>,
    /// Signalled when the thread has work.
    work: Condvar,
}

impl<K: Manager> std::fmt::Debug for Scheduler<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<K: Manager> Scheduler<K> {
    pub(super) fn new(manager: K, options: PoolOptions) -> Self {
        Self { manager, options, state: Mutex::default(), work: Condvar::new() }
    }

    /// Takes a machine back. One that is not `reusable`, not even after a reset, is stopped.
    pub(super) fn give_back(&self, machine: K::Machine, reusable: bool) {
        let mut state = self.lock();
        state.in_use -= 1;
        if state.is_closed {
            state.total -= 1;
            drop(state);
            drop(machine);
        } else if !reusable || !self.manager.is_healthy(&machine) {
            state.replaced += 1;
            self.end(&mut state, machine);
        } else if self.options.restores {
            self.offer(&mut state, Grant::Used(machine));
        } else {
            self.offer(&mut state, Grant::Ready(machine));
        }
    }

    /// Forgets a machine that a caller keeps for good.
    pub(super) fn let_go(&self) {
        self.take_back(self.lock(), Grant::Room);
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.lock();
        PoolStats {
            idle: state.idle.len(),
            in_use: state.in_use,
            returning: state.used.len(),
            starting: state.starting,
            waiting: state.waiters.len(),
            created: state.created,
            reset: state.reset,
            replaced: state.replaced,
            failures: state.failures,
        }
    }

    /// Whether machines are reset between two users.
    pub(super) fn restores(&self) -> bool {
        self.options.restores
    }

    /// Whether the pool has no machine, and makes none.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().total == 0
    }

    /// Works until the pool is closed: the body of the pool's thread.
    pub(super) fn tend(&self) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Reset(mut machine) => {
                    let result = self.manager.reset(&mut machine);
                    let mut state = self.lock();
                    state.starting -= 1;
                    if result.is_ok() {
                        state.reset += 1;
                        self.offer(&mut state, Grant::Ready(machine));
                    } else {
                        state.replaced += 1;
                        self.end(&mut state, machine);
                    }
                }
                Task::Make => {
                    let made = self.manager.create(Urgency::Ahead);
                    let mut state = self.lock();
                    state.starting -= 1;
                    if let Ok(machine) = made {
                        state.created += 1;
                        self.offer(&mut state, Grant::Ready(machine));
                    } else {
                        // A queued caller tries it again, and gets the error.
                        state.failures += 1;
                        state.retry = Some(Instant::now() + RETRY);
                        self.offer(&mut state, Grant::Room);
                    }
                }
                Task::StreamError(machine) => {
                    drop(machine);
                    self.offer(&mut self.lock(), Grant::Room);
                }
            }
        }
    }

    /// Stops the thread. Machines in use stay until they are returned.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_all();
    }

    /// Stops the unused machines, once the thread has exited.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        let idle = std::mem::take(&mut state.idle);
        let used = std::mem::take(&mut state.used);
        let ending = std::mem::take(&mut state.ending);
        state.total -= idle.len() + used.len() + ending.len();
        drop(state);
        drop((idle, used, ending));
    }

    /// Calls `work` with each warm machine.
    #[cfg(test)]
    pub(super) fn for_idle(&self, work: impl Fn(&mut K::Machine)) {
        self.lock().idle.iter_mut().for_each(|idle| work(&mut idle.machine));
    }

    /// What is available without a wait.
    pub(super) fn free(&self, state: &mut StateGuard<'_, K::Machine>) -> Option<Grant<K::Machine>> {
        while let Some(Idle { machine, .. }) = state.idle.pop_back() {
            if state.idle.len() < self.options.min {
                self.work.notify_all();
            }
            if self.manager.is_healthy(&machine) {
                return Some(Grant::Ready(machine));
            }
            state.replaced += 1;
            self.end(state, machine);
        }
        if let Some(machine) = state.used.pop_front() {
            return Some(Grant::Used(machine));
        }
        (state.total < self.options.max).then(|| {
            state.total += 1;
            Grant::Room
        })
    }

    /// Grants what became free to the head of the queue, or keeps it.
    fn offer(&self, state: &mut StateGuard<'_, K::Machine>, grant: Grant<K::Machine>) {
        if let Some(waiter) = state.waiters.pop_front() {
            state.in_use += 1;
            state.grants.insert(waiter.ticket, grant);
            state.wakers.0.push(waiter.waker);
            return;
        }
        match grant {
            Grant::Ready(machine) => {
                state.idle.push_back(Idle { machine, since: Instant::now() });
            }
            Grant::Used(machine) => state.used.push_back(machine),
            Grant::Room => state.total -= 1,
        }
        self.work.notify_all();
    }

    /// Takes back a grant that its caller no longer wants.
    pub(super) fn take_back(
        &self,
        mut state: StateGuard<'_, K::Machine>,
        grant: Grant<K::Machine>,
    ) {
        state.in_use -= 1;
        if state.is_closed {
            state.total -= 1;
            drop(state);
            drop(grant);
        } else {
            self.offer(&mut state, grant);
        }
    }

    /// Has the thread stop a machine; only then is there room for another.
    fn end(&self, state: &mut PoolState<K::Machine>, machine: K::Machine) {
        state.ending.push(machine);
        self.work.notify_all();
    }

    /// Makes a machine for a caller that has room for it.
    pub(super) fn make(&self) -> Result<K::Machine, Error> {
        let made = self.manager.create(Urgency::Immediate);
        let mut state = self.lock();
        match made {
            Ok(_) => state.created += 1,
            Err(_) => state.failures += 1,
        }
        made
    }

    fn next_task(&self) -> Option<Task<K::Machine>> {
        let mut opened = self.lock();
        loop {
            if opened.is_closed {
                return None;
            }
            let now = Instant::now();
            let (task, again) = self.due(&mut opened, now);
            if task.is_some() {
                return task;
            }
            let StateGuard { state, wakers } = opened;
            let state = match again {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.work.wait_timeout(state, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            opened = StateGuard { state, wakers };
        }
    }

    /// The thread's next task, and when to look again if there is none.
    fn due(
        &self,
        state: &mut PoolState<K::Machine>,
        now: Instant,
    ) -> (Option<Task<K::Machine>>, Option<Instant>) {
        if let Some(machine) = state.used.pop_front() {
            state.starting += 1;
            return (Some(Task::Reset(machine)), None);
        }
        if let Some(machine) = state.ending.pop() {
            return (Some(Task::StreamError(machine)), None);
        }
        let warm = state.idle.len() + state.starting;
        let mut again = None;
        if warm < self.options.min && state.total < self.options.max {
            if state.retry.is_none_or(|at| at <= now) {
                state.retry = None;
                state.total += 1;
                state.starting += 1;
                return (Some(Task::Make), None);
            }
            again = state.retry;
        }
        if state.idle.len() > self.options.min
            && let Some(oldest) = state.idle.front()
            && let Some(at) = oldest.since.checked_add(self.options.idle_timeout)
        {
            if at <= now {
                let ended = state.idle.pop_front();
                return (ended.map(|idle| Task::StreamError(idle.machine)), None);
            }
            again = Some(again.map_or(at, |other: Instant| other.min(at)));
        }
        (None, again)
    }

    pub(super) fn lock(&self) -> StateGuard<'_, K::Machine> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        StateGuard { state, wakers: Wakers::default() }
    }
}

/// What the pool's thread does.
enum Task<M> {
    Reset(M),
    Make,
    StreamError(M),
}
