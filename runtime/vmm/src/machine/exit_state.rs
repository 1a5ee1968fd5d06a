//! How a guest stopped, for code that talks with it and may outlive the machine.
//!
//! A machine has one [`ExitState`], which its vCPU threads write. An [`ExitWatch`] belongs to one
//! use of the machine: a use ends when the machine is dropped, or reset for another user. Neither
//! keeps any other part of the machine alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::devices::Console;
use crate::error::GuestFailure;

/// How a guest stopped.
#[derive(Debug, Default)]
pub(super) struct ExitState {
    failure: OnceLock<GuestFailure>,
    /// The number of uses that have ended.
    uses: AtomicU64,
}

impl ExitState {
    /// Records how the guest stopped by itself. Only the first call counts.
    pub(super) fn fail(&self, failure: &GuestFailure) {
        self.failure.get_or_init(|| failure.clone());
    }

    /// Ends a use. Called before its streams are closed.
    pub(super) fn end_use(&self) {
        self.uses.fetch_add(1, Ordering::Release);
    }

    fn uses(&self) -> u64 {
        // Pairs with the release in `end_use`: a reader that finds a stream closed sees why.
        self.uses.load(Ordering::Acquire)
    }
}

/// Reports how a guest stopped.
#[derive(Debug, Clone)]
pub struct ExitWatch {
    state: Arc<ExitState>,
    /// The use that this belongs to.
    own_use: u64,
    console: Console,
}

impl ExitWatch {
    pub(super) fn new(state: Arc<ExitState>, console: Console) -> Self {
        Self { own_use: state.uses(), state, console }
    }

    /// A watch of a machine that was dropped.
    #[must_use]
    pub fn of_stopped() -> Self {
        let watch = Self::new(Arc::default(), Console::default());
        watch.state.end_use();
        watch
    }

    /// A watch of a machine that keeps running.
    #[must_use]
    pub fn of_running() -> Self {
        Self::new(Arc::default(), Console::default())
    }

    /// How the guest stopped by itself; `None` if it did not.
    #[must_use]
    pub fn failure(&self) -> Option<GuestFailure> {
        self.state.failure.get().cloned()
    }

    /// Whether the machine was dropped, or reset for another user.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.uses() != self.own_use
    }

    /// The tail of the guest kernel's messages.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        self.console.tail()
    }
}
