//! How a guest ended, for those who talk with it and may outlive the machine.

use super::GuestFailure;
use super::devices::serial::Console;
use super::vcpu::Fate;

/// Tells how a guest ended. It keeps nothing of the machine alive but these facts.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    fate: Fate,
    console: Console,
}

impl Witness {
    pub(super) fn new(fate: Fate, console: Console) -> Self {
        Self { fate, console }
    }

    /// One of a machine that was dropped.
    #[cfg(test)]
    pub(crate) fn of_stopped() -> Self {
        Self::new(Fate::of_stopped(), Console::default())
    }

    /// How the guest ended by itself, if it did.
    pub(crate) fn failure(&self) -> Option<GuestFailure> {
        self.fate.failure()
    }

    /// Whether the machine was dropped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.fate.is_stopped()
    }

    /// The end of what the guest's kernel wrote to its console.
    pub(crate) fn console(&self) -> Vec<u8> {
        self.console.tail()
    }
}
