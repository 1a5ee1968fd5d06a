//! The state of a pool, and the guard that wakes waiters once the state is unlocked.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::Error;

/// Makes, resets and judges a pool's machines.
pub(crate) trait Manager: Send + Sync + 'static {
    /// What the pool holds.
    type Machine: Send + 'static;

    /// Makes a machine.
    fn create(&self, urgency: Urgency) -> Result<Self::Machine, Error>;

    /// Puts a machine back to how it was made.
    fn reset(&self, machine: &mut Self::Machine) -> Result<(), Error>;

    /// Whether a machine can still be used.
    fn is_healthy(&self, machine: &Self::Machine) -> bool;
}

/// Whether a caller waits for a new machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A caller does.
    Immediate,
    /// None does: it is made ahead of demand.
    Ahead,
}

/// The limits and timeouts of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolOptions {
    /// Machines that are kept warm.
    pub(super) min: usize,
    /// The most machines.
    pub(super) max: usize,
    /// How long an unused machine beyond `min` is kept.
    pub(super) idle_timeout: Duration,
    /// How long a caller waits for a machine.
    pub(super) acquire_timeout: Duration,
    /// Whether machines are reset between two users.
    pub(super) restores: bool,
}

/// What a caller that acquires a machine gets.
#[derive(Debug)]
pub(super) enum Grant<M> {
    /// A machine.
    Ready(M),
    /// A returned machine, to be reset.
    Used(M),
    /// Room for a new machine.
    Room,
}

/// A warm machine.
pub(super) struct Idle<M> {
    pub(super) machine: M,
    pub(super) since: Instant,
}

/// A queued caller.
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) waker: Waker,
}

/// The machines of a pool, its queue, and its counters.
pub(super) struct PoolState<M> {
    /// The last in is the first out, so that the others can be evicted.
    pub(super) idle: VecDeque<Idle<M>>,
    pub(super) used: VecDeque<M>,
    pub(super) ending: Vec<M>,
    pub(super) waiters: VecDeque<Waiter>,
    /// Grants to queued callers that have not collected them, by ticket.
    pub(super) grants: BTreeMap<u64, Grant<M>>,
    pub(super) next_ticket: u64,
    /// All machines, including those that are being made or stopped.
    pub(super) total: usize,
    /// Machines that the thread makes or resets.
    pub(super) starting: usize,
    pub(super) in_use: usize,
    pub(super) created: u64,
    pub(super) reset: u64,
    pub(super) replaced: u64,
    pub(super) failures: u64,
    /// When the thread may make a machine again, after a failure.
    pub(super) retry: Option<Instant>,
    pub(super) is_closed: bool,
}

impl<M> Default for PoolState<M> {
    fn default() -> Self {
        Self {
            idle: VecDeque::new(),
            used: VecDeque::new(),
            ending: Vec::new(),
            waiters: VecDeque::new(),
            grants: BTreeMap::new(),
            next_ticket: 0,
            total: 0,
            starting: 0,
            in_use: 0,
            created: 0,
            reset: 0,
            replaced: 0,
            failures: 0,
            retry: None,
            is_closed: false,
        }
    }
}

/// The locked state, and the waiters to wake once it is unlocked: fields drop in this order.
pub(super) struct StateGuard<'a, M> {
    pub(super) state: MutexGuard<'a, PoolState<M>>,
    pub(super) wakers: Wakers,
}

impl<M> Deref for StateGuard<'_, M> {
    type Target = PoolState<M>;

    fn deref(&self) -> &PoolState<M> {
        &self.state
    }
}

impl<M> DerefMut for StateGuard<'_, M> {
    fn deref_mut(&mut self) -> &mut PoolState<M> {
        &mut self.state
    }
}

/// Wakes its wakers when it is dropped.
#[derive(Default)]
pub(super) struct Wakers(pub(super) Vec<Waker>);

impl Drop for Wakers {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}
