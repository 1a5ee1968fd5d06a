//! Those who ask for a machine: a place in the queue, and what is given to it.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{Grant, Maker, Shelf, Waiter};
use crate::Error;

/// Somebody's place in the queue, from the first look on. It is given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Maker> {
    shelf: Arc<Shelf<K>>,
    /// None before there is a queue to be in, and once what was waited for has been taken.
    ticket: Option<u64>,
    begin: Instant,
}

impl<K: Maker> Place<K> {
    pub(super) fn new(shelf: Arc<Shelf<K>>) -> Self {
        Self { shelf, ticket: None, begin: Instant::now() }
    }

    /// What can be had without waiting.
    pub(crate) fn look(&self) -> Option<Lot<K>> {
        let mut books = self.shelf.lock();
        let grant = self.shelf.free(&mut books)?;
        books.in_use += 1;
        Some(self.lot(grant))
    }

    /// What was given to this place. The first time, it goes to the end of the queue; what is
    /// given later wakes the one who asked last.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Lot<K>> {
        let mut books = self.shelf.lock();
        let Some(ticket) = self.ticket else {
            if let Some(grant) = self.shelf.free(&mut books) {
                books.in_use += 1;
                return Poll::Ready(self.lot(grant));
            }
            let ticket = books.next_ticket;
            books.next_ticket += 1;
            books.waiters.push_back(Waiter { ticket, waker: waker.clone() });
            self.ticket = Some(ticket);
            return Poll::Pending;
        };
        if let Some(grant) = books.grants.remove(&ticket) {
            self.ticket = None;
            return Poll::Ready(self.lot(grant));
        }
        if let Some(waiter) = books.waiters.iter_mut().find(|waiter| waiter.ticket == ticket) {
            waiter.waker.clone_from(waker);
        }
        Poll::Pending
    }

    /// How long is waited.
    pub(crate) fn patience(&self) -> Duration {
        self.shelf.rules.acquire_timeout
    }

    /// That nothing was given in time.
    pub(crate) fn exhausted(&self) -> Error {
        let (in_use, max) = (self.shelf.lock().in_use, self.shelf.rules.max);
        Error::PoolExhausted { in_use, max, waited: self.begin.elapsed() }
    }

    /// Waits for what there is to be had.
    pub(in crate::pool) fn wait(mut self) -> Result<Lot<K>, Error> {
        if let Some(lot) = self.look() {
            return Ok(lot);
        }
        let waker = Waker::from(Arc::new(Sleeper(thread::current())));
        loop {
            if let Poll::Ready(lot) = self.poll(&waker) {
                return Ok(lot);
            }
            match self.patience().checked_sub(self.begin.elapsed()) {
                Some(left) => thread::park_timeout(left),
                None => return Err(self.exhausted()),
            }
        }
    }

    fn lot(&self, grant: Grant<K::Machine>) -> Lot<K> {
        Lot { shelf: Arc::clone(&self.shelf), grant: Some(grant) }
    }
}

impl<K: Maker> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut books = self.shelf.lock();
        books.waiters.retain(|waiter| waiter.ticket != ticket);
        // It may have been given something meanwhile.
        if let Some(grant) = books.grants.remove(&ticket) {
            self.shelf.take_back(books, grant);
        }
    }
}

/// A thread that waits.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What somebody got: a machine, or the right to make one. It goes back when this is dropped, also
/// if making the machine fails or panics.
#[derive(Debug)]
pub(crate) struct Lot<K: Maker> {
    shelf: Arc<Shelf<K>>,
    grant: Option<Grant<K::Machine>>,
}

impl<K: Maker> Lot<K> {
    /// Whether it is a machine that needs nothing done.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.grant, Some(Grant::Ready(_)))
    }

    /// Where it is from.
    pub(in crate::pool) fn shelf(&self) -> Arc<Shelf<K>> {
        Arc::clone(&self.shelf)
    }

    /// The machine, made or reset if need be.
    pub(in crate::pool) fn furnish(mut self) -> Result<K::Machine, Error> {
        let shelf = self.shelf();
        // From here on this is a right to a machine, until there is one.
        let machine = match self.grant.replace(Grant::Room) {
            Some(Grant::Ready(machine)) => machine,
            Some(Grant::Used(mut machine)) => match shelf.maker.reset(&mut machine) {
                Ok(()) => {
                    shelf.lock().reset += 1;
                    machine
                }
                Err(_) => {
                    drop(machine);
                    shelf.lock().replaced += 1;
                    shelf.make()?
                }
            },
            Some(Grant::Room) | None => shelf.make()?,
        };
        self.grant = None;
        Ok(machine)
    }
}

impl<K: Maker> Drop for Lot<K> {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.shelf.take_back(self.shelf.lock(), grant);
        }
    }
}
