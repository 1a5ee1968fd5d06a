//! Who knows why a stream to the agent ended.

use std::thread;
use std::time::Instant;

use super::End;
use super::end::{GUEST_END, GUEST_END_INTERVAL};
use crate::{Error, worker};

/// Tells why a stream ended; it may outlive the machine.
#[derive(Debug, Clone)]
pub(crate) enum Witness {
    /// The machine is this process's.
    Here(supermachine_vmm::ExitWatch),
    /// Another process holds it.
    There(worker::Client),
}

impl Witness {
    /// Why a stream ended by itself: the guest's own end comes before that of its streams.
    pub(crate) fn end(&self) -> End {
        let since = Instant::now();
        loop {
            if let Some(end) = self.look(since) {
                return end;
            }
            thread::sleep(GUEST_END_INTERVAL);
        }
    }

    /// Why a stream ended by itself, at the moment `since`; none if that is not known yet.
    pub(crate) fn look(&self, since: Instant) -> Option<End> {
        let found = match self {
            Self::Here(witness) => End::look(witness),
            Self::There(client) => match client.look() {
                Ok(end) => end,
                Err(Error::Stopped) => Some(End::Stopped),
                Err(_) => Some(End::WorkerGone),
            },
        };
        found.or_else(|| (since.elapsed() >= GUEST_END).then_some(End::AgentGone))
    }
}

#[cfg(test)]
impl Witness {
    /// One of a machine that was dropped.
    pub(crate) fn of_stopped() -> Self {
        Self::Here(supermachine_vmm::ExitWatch::of_stopped())
    }

    /// One of a machine that goes on.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_running() -> Self {
        Self::Here(supermachine_vmm::ExitWatch::of_running())
    }
}
