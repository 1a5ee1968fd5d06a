//! Callers of a pool: their turn in the queue, and the lease that they get.
//!
//! Threads and tasks wait in one queue, each with a waker. A [`Lease`] is a machine, or the right to
//! make one. An [`Acquire`] and a lease return what they hold when they are dropped, so a caller that
//! gives up loses neither its turn for others nor a machine.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use super::state::{Grant, Manager, Waiter};
use crate::Error;

/// A caller that acquires a machine. It leaves the queue when this is dropped.
#[derive(Debug)]
pub(crate) struct Acquire<K: Manager> {
    scheduler: Arc<Scheduler<K>>,
    /// `None` before the caller is queued, and once it has its lease.
    ticket: Option<u64>,
    begin: Instant,
}

impl<K: Manager> Acquire<K> {
    pub(super) fn new(scheduler: &Arc<Scheduler<K>>) -> Self {
        Self { scheduler: Arc::clone(scheduler), ticket: None, begin: Instant::now() }
    }

    /// Takes what is available without a wait.
    pub(crate) fn try_now(&self) -> Option<Lease<K>> {
        let mut state = self.scheduler.lock();
        let grant = self.scheduler.free(&mut state)?;
        state.in_use += 1;
        Some(self.lease(grant))
    }

    /// Takes what was granted. The first call joins the queue; a later grant wakes the waker of the
    /// last call.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Lease<K>> {
        let mut state = self.scheduler.lock();
        let Some(ticket) = self.ticket else {
            if let Some(grant) = self.scheduler.free(&mut state) {
                state.in_use += 1;
                return Poll::Ready(self.lease(grant));
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiters.push_back(Waiter { ticket, waker: waker.clone() });
            self.ticket = Some(ticket);
            return Poll::Pending;
        };
        if let Some(grant) = state.grants.remove(&ticket) {
            self.ticket = None;
            return Poll::Ready(self.lease(grant));
        }
        if let Some(waiter) = state.waiters.iter_mut().find(|waiter| waiter.ticket == ticket) {
            waiter.waker.clone_from(waker);
        }
        Poll::Pending
    }

    /// How long to wait.
    pub(crate) fn timeout(&self) -> Duration {
        self.scheduler.options.acquire_timeout
    }

    /// The error when nothing was granted in time.
    pub(crate) fn exhausted(&self) -> Error {
        let (in_use, max) = (self.scheduler.lock().in_use, self.scheduler.options.max);
        Error::PoolExhausted { in_use, max, waited: self.begin.elapsed() }
    }

    /// Blocks until something is granted.
    pub(super) fn wait(mut self) -> Result<Lease<K>, Error> {
        if let Some(lease) = self.try_now() {
            return Ok(lease);
        }
        let waker = Waker::from(Arc::new(Sleeper(thread::current())));
        loop {
            if let Poll::Ready(lease) = self.poll(&waker) {
                return Ok(lease);
            }
            match self.timeout().checked_sub(self.begin.elapsed()) {
                Some(left) => thread::park_timeout(left),
                None => return Err(self.exhausted()),
            }
        }
    }

    fn lease(&self, grant: Grant<K::Machine>) -> Lease<K> {
        Lease { scheduler: Arc::clone(&self.scheduler), grant: Some(grant) }
    }
}

impl<K: Manager> Drop for Acquire<K> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.scheduler.lock();
        state.waiters.retain(|waiter| waiter.ticket != ticket);
        // Something may have been granted since.
        if let Some(grant) = state.grants.remove(&ticket) {
            self.scheduler.take_back(state, grant);
        }
    }
}

/// A blocked thread.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A machine, or the right to make one. It goes back to the pool when this is dropped, also when
/// making the machine fails or panics.
#[derive(Debug)]
pub(crate) struct Lease<K: Manager> {
    scheduler: Arc<Scheduler<K>>,
    grant: Option<Grant<K::Machine>>,
}

impl<K: Manager> Lease<K> {
    /// Whether it is a machine that needs no work.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.grant, Some(Grant::Ready(_)))
    }

    /// The scheduler that granted it.
    pub(super) fn scheduler(&self) -> Arc<Scheduler<K>> {
        Arc::clone(&self.scheduler)
    }

    /// Turns the lease into a machine, which is made or reset if needed.
    pub(super) fn fulfill(mut self) -> Result<K::Machine, Error> {
        let scheduler = self.scheduler();
        // Until there is a machine, dropping this returns the right to make one.
        let machine = match self.grant.replace(Grant::Room) {
            Some(Grant::Ready(machine)) => machine,
            Some(Grant::Used(mut machine)) => match scheduler.manager.reset(&mut machine) {
                Ok(()) => {
                    scheduler.lock().reset += 1;
                    machine
                }
                Err(_) => {
                    drop(machine);
                    scheduler.lock().replaced += 1;
                    scheduler.make()?
                }
            },
            Some(Grant::Room) | None => scheduler.make()?,
        };
        self.grant = None;
        Ok(machine)
    }
}

impl<K: Manager> Drop for Lease<K> {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.scheduler.take_back(self.scheduler.lock(), grant);
        }
    }
}
