//! How a guest ended, for those who talk with it and may outlive the machine.
//!
//! A [`Fate`] belongs to a machine and is written by those who run it. A [`Witness`] belongs to one
//! stream of one use of the machine: a use ends when the machine is dropped, or put back to its
//! beginning for another user. Neither keeps anything of the machine alive but these facts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::GuestFailure;
use super::devices::serial::Console;

/// What became of a guest.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    failure: OnceLock<GuestFailure>,
    /// How many uses have ended.
    uses: AtomicU64,
}

impl Fate {
    /// Notes how the guest ended; the first to say so counts.
    pub(super) fn fail(&self, failure: &GuestFailure) {
        self.failure.get_or_init(|| failure.clone());
    }

    /// Notes that whoever has streams to the guest has them no more. Before they end.
    pub(super) fn end_use(&self) {
        self.uses.fetch_add(1, Ordering::Release);
    }

    fn uses(&self) -> u64 {
        // With the release above: who finds a stream ended sees why.
        self.uses.load(Ordering::Acquire)
    }
}

/// Tells how a guest ended.
#[derive(Debug, Clone)]
pub struct Witness {
    fate: Arc<Fate>,
    /// The use that it belongs to.
    own_use: u64,
    console: Console,
}

impl Witness {
    pub(super) fn new(fate: Arc<Fate>, console: Console) -> Self {
        Self { own_use: fate.uses(), fate, console }
    }

    /// One of a machine that was dropped.
    #[must_use]
    pub fn of_stopped() -> Self {
        let witness = Self::new(Arc::default(), Console::default());
        witness.fate.end_use();
        witness
    }

    /// One of a machine that lives on.
    #[must_use]
    pub fn of_running() -> Self {
        Self::new(Arc::default(), Console::default())
    }

    /// How the guest ended by itself, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<GuestFailure> {
        self.fate.failure.get().cloned()
    }

    /// Whether the machine was dropped, or put back for another user.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.fate.uses() != self.own_use
    }

    /// The end of what the guest's kernel wrote to its console.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.console.tail()
    }
}
