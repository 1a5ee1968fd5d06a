//! Creates vCPUs in the order of their indices, although each is created on a thread of its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that each do a thing once, in the order of their indices from 0 on.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// How many have done it. The lock is held while the next one does, so the locks that it needs
    /// are taken under this one.
    done: Mutex<u16>,
    changed: Condvar,
}

impl Sequence {
    /// Waits for the threads before this one, and lets the next one go when the result is dropped.
    pub(super) fn wait_for(&self, index: u16) -> Turn<'_> {
        let mut done = self.lock();
        while *done < index {
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { done, changed: &self.changed }
    }

    /// How many threads have had their turn.
    pub(super) fn count(&self) -> u16 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u16> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one thread.
pub(super) struct Turn<'a> {
    done: MutexGuard<'a, u16>,
    changed: &'a Condvar,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.done += 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_of_a_sequence_go_in_the_order_of_their_indices() {
        let (sequence, order) = (Sequence::default(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for index in (0..16).rev() {
                let (sequence, order) = (&sequence, &order);
                scope.spawn(move || {
                    let _turn = sequence.wait_for(index);
                    order.lock().unwrap().push(index);
                });
            }
        });
        assert_eq!(order.into_inner().unwrap(), (0..16).collect::<Vec<_>>());
        assert_eq!(sequence.count(), 16);
    }
}
