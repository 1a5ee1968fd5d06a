//! The tasks that wait for one stream.
//!
//! A stream wakes one task for each direction, but several may wait for its bytes. So it gets one
//! waker that wakes them all, and each looks for its own.
//!
//! Invariant: the lock is not held while a task is woken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The waiting tasks.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    next_key: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Waiters {
    /// A new key, for a task that is about to wait.
    pub(super) fn key(&self) -> u64 {
        let mut list = self.lock();
        list.next_key += 1;
        list.next_key
    }

    /// Registers a waiting task.
    pub(super) fn set(&self, key: u64, waker: &Waker) {
        let mut list = self.lock();
        match list.waiting.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => known.clone_from(waker),
            None => list.waiting.push((key, waker.clone())),
        }
    }

    /// Removes a waiting task.
    pub(super) fn clear(&self, key: u64) {
        let mut list = self.lock();
        let place = list.waiting.iter().position(|(known, _)| *known == key);
        let waker = place.map(|place| list.waiting.swap_remove(place));
        drop(list);
        drop(waker);
    }

    /// Wakes all tasks but one.
    pub(super) fn wake_others(&self, key: u64) {
        let mut list = self.lock();
        let (own, others) = list.waiting.drain(..).partition(|(known, _)| *known == key);
        list.waiting = own;
        drop(list);
        wake(others);
    }

    /// Wakes all tasks.
    pub(super) fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        wake(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

fn wake(waiting: Vec<(u64, Waker)>) {
    for (_, waker) in waiting {
        waker.wake();
    }
}
