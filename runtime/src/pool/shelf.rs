//! Who gets which machine: the books of a pool.
//!
//! Owns the machines that nobody uses, the queue of those who wait, and the thread `sm-pool`,
//! which resets what comes back, keeps enough machines warm and ends the others. How a machine is
//! made, reset and judged is the [`Maker`]'s affair.
//!
//! Whoever finds no warm machine does not wait for the thread: a machine that is still to be
//! reset is reset by who takes it, and while there is room a new one is made by who needs it.
//!
//! Who waits has a [`Place`] in the queue, and is woken; so threads and tasks wait in one queue.
//! What is given out is a [`Lot`]: a machine, or the right to make one. Both go back when they are
//! dropped, so that neither a place nor a machine is lost with whoever gives up.
//!
//! Invariants: the one lock is held neither while a machine is made or reset, nor while one ends,
//! nor while somebody is woken. No more than [`Rules::max`] machines exist, those that are being made or ended among them, but
//! for those that were taken out for good. While somebody waits, nothing is free: whatever
//! becomes free goes to the first in the queue.

mod place;

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

pub(crate) use self::place::{Lot, Place};
use super::PoolStats;
use crate::Error;

/// How long after a machine could not be made another is tried that nobody waits for.
const RETRY: Duration = Duration::from_secs(1);

/// How a pool's machines are made.
pub(crate) trait Maker: Send + Sync + 'static {
    /// What a pool is of.
    type Machine: Send + 'static;

    /// Makes a machine.
    fn make(&self, haste: Haste) -> Result<Self::Machine, Error>;

    /// Puts a machine back to how it was made.
    fn reset(&self, machine: &mut Self::Machine) -> Result<(), Error>;

    /// Whether a machine can still be used.
    fn is_well(&self, machine: &Self::Machine) -> bool;
}

/// Whether somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Somebody does.
    Now,
    /// It is made ahead, for whoever comes.
    Ahead,
}

/// What a pool keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Machines that are kept warm.
    pub(super) min: usize,
    /// The most machines.
    pub(super) max: usize,
    /// How long a machine beyond `min` is kept that nobody uses.
    pub(super) idle_timeout: Duration,
    /// How long is waited for a machine.
    pub(super) acquire_timeout: Duration,
    /// Whether machines are reset between two users.
    pub(super) restores: bool,
}

/// What somebody gets who asks for a machine.
#[derive(Debug)]
enum Grant<M> {
    /// A machine.
    Ready(M),
    /// One that is to be reset.
    Used(M),
    /// Room for one.
    Room,
}

/// A machine that waits for somebody.
struct Idle<M> {
    machine: M,
    since: Instant,
}

/// Somebody who waits for a machine.
struct Waiter {
    ticket: u64,
    waker: Waker,
}

struct Books<M> {
    /// The one that came last is taken first; the others may end.
    idle: VecDeque<Idle<M>>,
    used: VecDeque<M>,
    ending: Vec<M>,
    waiters: VecDeque<Waiter>,
    /// What was given to those who waited, by ticket.
    grants: BTreeMap<u64, Grant<M>>,
    next_ticket: u64,
    /// All machines, those to come and those about to end among them.
    total: usize,
    /// Those that the thread makes or resets.
    starting: usize,
    in_use: usize,
    created: u64,
    reset: u64,
    replaced: u64,
    failures: u64,
    /// When the next machine is made ahead, after one could not be.
    retry: Option<Instant>,
    is_closed: bool,
}

impl<M> Default for Books<M> {
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

/// A pool's machines.
pub(crate) struct Shelf<K: Maker> {
    maker: K,
    rules: Rules,
    books: Mutex<Books<K::Machine>>,
    /// Tells the thread that there is something to do.
    work: Condvar,
}

impl<K: Maker> std::fmt::Debug for Shelf<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<K: Maker> Shelf<K> {
    pub(super) fn new(maker: K, rules: Rules) -> Self {
        Self { maker, rules, books: Mutex::default(), work: Condvar::new() }
    }

    /// Takes a machine, or waits for one.
    #[cfg(test)]
    pub(super) fn take(self: &Arc<Self>) -> Result<K::Machine, Error> {
        self.place().wait()?.furnish()
    }

    /// A place for somebody who asks for a machine.
    pub(super) fn place(self: &Arc<Self>) -> Place<K> {
        Place::new(Arc::clone(self))
    }

    /// Takes a machine back, which may not be `reusable` as it is or after a reset.
    pub(super) fn give_back(&self, machine: K::Machine, reusable: bool) {
        let mut books = self.lock();
        books.in_use -= 1;
        if books.is_closed {
            books.total -= 1;
            drop(books);
            drop(machine);
        } else if !reusable || !self.maker.is_well(&machine) {
            books.replaced += 1;
            self.end(&mut books, machine);
        } else if self.rules.restores {
            self.offer(&mut books, Grant::Used(machine));
        } else {
            self.offer(&mut books, Grant::Ready(machine));
        }
    }

    /// Forgets a machine that somebody keeps for good.
    pub(super) fn let_go(&self) {
        self.take_back(self.lock(), Grant::Room);
    }

    pub(super) fn stats(&self) -> PoolStats {
        let books = self.lock();
        PoolStats {
            idle: books.idle.len(),
            in_use: books.in_use,
            returning: books.used.len(),
            starting: books.starting,
            waiting: books.waiters.len(),
            created: books.created,
            reset: books.reset,
            replaced: books.replaced,
            failures: books.failures,
        }
    }

    /// Whether machines are reset between two users.
    pub(super) fn restores(&self) -> bool {
        self.rules.restores
    }

    /// Whether there is no machine, and none to come.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().total == 0
    }

    /// Does what there is to do until the pool is closed: the life of the pool's thread.
    pub(super) fn tend(&self) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Reset(mut machine) => {
                    let result = self.maker.reset(&mut machine);
                    let mut books = self.lock();
                    books.starting -= 1;
                    if result.is_ok() {
                        books.reset += 1;
                        self.offer(&mut books, Grant::Ready(machine));
                    } else {
                        books.replaced += 1;
                        self.end(&mut books, machine);
                    }
                }
                Task::Make => {
                    let made = self.maker.make(Haste::Ahead);
                    let mut books = self.lock();
                    books.starting -= 1;
                    if let Ok(machine) = made {
                        books.created += 1;
                        self.offer(&mut books, Grant::Ready(machine));
                    } else {
                        // Who waits tries it again, and is told why it fails.
                        books.failures += 1;
                        books.retry = Some(Instant::now() + RETRY);
                        self.offer(&mut books, Grant::Room);
                    }
                }
                Task::End(machine) => {
                    drop(machine);
                    self.offer(&mut self.lock(), Grant::Room);
                }
            }
        }
    }

    /// Has the thread end. Machines in use live on until they are given back.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_all();
    }

    /// Ends the machines that nobody uses, once the thread has ended.
    pub(super) fn clear(&self) {
        let mut books = self.lock();
        let idle = std::mem::take(&mut books.idle);
        let used = std::mem::take(&mut books.used);
        let ending = std::mem::take(&mut books.ending);
        books.total -= idle.len() + used.len() + ending.len();
        drop(books);
        drop((idle, used, ending));
    }

    /// Does something to the machines that nobody uses.
    #[cfg(test)]
    pub(super) fn for_idle(&self, work: impl Fn(&mut K::Machine)) {
        self.lock().idle.iter_mut().for_each(|idle| work(&mut idle.machine));
    }

    /// What can be had without waiting.
    fn free(&self, books: &mut Opened<'_, K::Machine>) -> Option<Grant<K::Machine>> {
        while let Some(Idle { machine, .. }) = books.idle.pop_back() {
            if books.idle.len() < self.rules.min {
                self.work.notify_all();
            }
            if self.maker.is_well(&machine) {
                return Some(Grant::Ready(machine));
            }
            books.replaced += 1;
            self.end(books, machine);
        }
        if let Some(machine) = books.used.pop_front() {
            return Some(Grant::Used(machine));
        }
        (books.total < self.rules.max).then(|| {
            books.total += 1;
            Grant::Room
        })
    }

    /// Gives what became free to who waits longest, or keeps it.
    fn offer(&self, books: &mut Opened<'_, K::Machine>, grant: Grant<K::Machine>) {
        if let Some(waiter) = books.waiters.pop_front() {
            books.in_use += 1;
            books.grants.insert(waiter.ticket, grant);
            books.bell.0.push(waiter.waker);
            return;
        }
        match grant {
            Grant::Ready(machine) => {
                books.idle.push_back(Idle { machine, since: Instant::now() });
            }
            Grant::Used(machine) => books.used.push_back(machine),
            Grant::Room => books.total -= 1,
        }
        self.work.notify_all();
    }

    /// Takes back what was given to somebody who does not want it any more.
    fn take_back(&self, mut books: Opened<'_, K::Machine>, grant: Grant<K::Machine>) {
        books.in_use -= 1;
        if books.is_closed {
            books.total -= 1;
            drop(books);
            drop(grant);
        } else {
            self.offer(&mut books, grant);
        }
    }

    /// Has the thread end a machine; only then is there room for another.
    fn end(&self, books: &mut Books<K::Machine>, machine: K::Machine) {
        books.ending.push(machine);
        self.work.notify_all();
    }

    /// Makes a machine for who has room for it.
    fn make(&self) -> Result<K::Machine, Error> {
        let made = self.maker.make(Haste::Now);
        let mut books = self.lock();
        match made {
            Ok(_) => books.created += 1,
            Err(_) => books.failures += 1,
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
            let Opened { books, bell } = opened;
            let books = match again {
                None => self.work.wait(books).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.work.wait_timeout(books, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            opened = Opened { books, bell };
        }
    }

    /// What the thread is to do now, and when it must look again if there is nothing.
    fn due(
        &self,
        books: &mut Books<K::Machine>,
        now: Instant,
    ) -> (Option<Task<K::Machine>>, Option<Instant>) {
        if let Some(machine) = books.used.pop_front() {
            books.starting += 1;
            return (Some(Task::Reset(machine)), None);
        }
        if let Some(machine) = books.ending.pop() {
            return (Some(Task::End(machine)), None);
        }
        let warm = books.idle.len() + books.starting;
        let mut again = None;
        if warm < self.rules.min && books.total < self.rules.max {
            if books.retry.is_none_or(|at| at <= now) {
                books.retry = None;
                books.total += 1;
                books.starting += 1;
                return (Some(Task::Make), None);
            }
            again = books.retry;
        }
        if books.idle.len() > self.rules.min
            && let Some(oldest) = books.idle.front()
            && let Some(at) = oldest.since.checked_add(self.rules.idle_timeout)
        {
            if at <= now {
                let ended = books.idle.pop_front();
                return (ended.map(|idle| Task::End(idle.machine)), None);
            }
            again = Some(again.map_or(at, |other: Instant| other.min(at)));
        }
        (None, again)
    }

    fn lock(&self) -> Opened<'_, K::Machine> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        Opened { books, bell: Bell::default() }
    }
}

/// The books, opened, and whom to wake once they are closed again: fields end in this order.
struct Opened<'a, M> {
    books: MutexGuard<'a, Books<M>>,
    bell: Bell,
}

impl<M> Deref for Opened<'_, M> {
    type Target = Books<M>;

    fn deref(&self) -> &Books<M> {
        &self.books
    }
}

impl<M> DerefMut for Opened<'_, M> {
    fn deref_mut(&mut self) -> &mut Books<M> {
        &mut self.books
    }
}

/// Wakes when it is dropped.
#[derive(Default)]
struct Bell(Vec<Waker>);

impl Drop for Bell {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// What the pool's thread does.
enum Task<M> {
    Reset(M),
    Make,
    End(M),
}
