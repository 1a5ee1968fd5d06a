//! What threads other than a vCPU's own do to it: kick it, start it, wake it.
//!
//! The lock of a [`Presence`] guards its signals, and is held for moments, also while the framework
//! is asked to make the vCPU exit. [`Peers`] has a lock for the list of them, under which those of the
//! members are taken; under theirs, no other is.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use supermachine_formats::snapshot::arch::aarch64::AFFINITY;

use super::cpu::{self, Id};
use crate::backend::Kick;

/// Where a vCPU begins when another one starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Its first instruction.
    pub(super) entry: u64,
    /// What it finds in X0.
    pub(super) context: u64,
}

/// Whether a vCPU executes instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    On,
    Off,
    /// Another vCPU has started it, and its thread has yet to notice.
    Starting(Start),
}

/// Why a vCPU that is off stopped waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Kicked,
    Started(Start),
}

/// One vCPU, as other threads see it.
#[derive(Debug)]
pub(super) struct Presence {
    /// The affinity fields of its MPIDR.
    affinity: u64,
    signals: Mutex<Signals>,
    /// Notified of every change of `signals`.
    changed: Condvar,
}

#[derive(Debug)]
struct Signals {
    power: Power,
    /// It is to leave the guest.
    is_kicked: bool,
    /// An interrupt was sent since it last waited for one.
    is_woken: bool,
    /// The framework's name of the vCPU, while it exists.
    id: Option<Id>,
}

impl Presence {
    pub(super) fn new(affinity: u64, id: Id) -> Self {
        let signals =
            Signals { power: Power::Off, is_kicked: false, is_woken: false, id: Some(id) };
        Self { affinity, signals: Mutex::new(signals), changed: Condvar::new() }
    }

    pub(super) fn affinity(&self) -> u64 {
        self.affinity
    }

    pub(super) fn power(&self) -> Power {
        self.lock().power
    }

    pub(super) fn set_power(&self, power: Power) {
        self.lock().power = power;
        self.changed.notify_all();
    }

    /// Starts the vCPU if it is off. Returns what it was before.
    pub(super) fn start(&self, start: Start) -> Power {
        let mut signals = self.lock();
        let before = signals.power;
        if before == Power::Off {
            signals.power = Power::Starting(start);
            self.changed.notify_all();
        }
        before
    }

    /// Turns the vCPU on if it was started. Returns where it begins.
    pub(super) fn take_start(&self) -> Option<Start> {
        let mut signals = self.lock();
        let Power::Starting(start) = signals.power else { return None };
        signals.power = Power::On;
        Some(start)
    }

    /// Whether the vCPU was kicked since the last call.
    pub(super) fn take_kick(&self) -> bool {
        std::mem::take(&mut self.lock().is_kicked)
    }

    /// Waits until the vCPU, which is off, is started or kicked.
    pub(super) fn wait_for_start(&self) -> Wake {
        let mut signals = self.lock();
        loop {
            if std::mem::take(&mut signals.is_kicked) {
                return Wake::Kicked;
            }
            if let Power::Starting(start) = signals.power {
                signals.power = Power::On;
                return Wake::Started(start);
            }
            signals = self.changed.wait(signals).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for an interrupt of a device or a kick, but not longer than this. The kick stays.
    pub(super) fn idle(&self, longest: Duration) {
        let signals = self.lock();
        let waited = self.changed.wait_timeout_while(signals, longest, |signals| {
            !signals.is_kicked && !signals.is_woken
        });
        waited.unwrap_or_else(PoisonError::into_inner).0.is_woken = false;
    }

    /// Interrupts a wait for an interrupt, or the next one.
    fn wake(&self) {
        self.lock().is_woken = true;
        self.changed.notify_all();
    }

    /// The vCPU is about to be destroyed.
    pub(super) fn leave(&self) {
        self.lock().id = None;
    }

    fn lock(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kicks one vCPU.
#[derive(Debug)]
pub(super) struct Kicker(pub(super) Arc<Presence>);

impl Kick for Kicker {
    fn kick(&self) {
        let mut signals = self.0.lock();
        signals.is_kicked = true;
        self.0.changed.notify_all();
        if let Some(id) = signals.id {
            // SAFETY: the vCPU exists: its thread takes the name away under this lock before it
            // destroys it.
            unsafe { cpu::exit(id) };
        }
    }
}

/// The vCPUs of a VM.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Only ever added to.
    all: Mutex<Vec<Arc<Presence>>>,
}

impl Peers {
    pub(super) fn add(&self, presence: Arc<Presence>) {
        self.lock().push(presence);
    }

    /// The vCPU with these affinity fields.
    pub(super) fn find(&self, affinity: u64) -> Option<Arc<Presence>> {
        self.lock().iter().find(|one| one.affinity == affinity).cloned()
    }

    /// The power of the vCPUs whose affinity fields from this level upwards are these.
    pub(super) fn powers(&self, affinity: u64, level: u32) -> Vec<Power> {
        let mask = AFFINITY & !((1_u64 << (8 * level.min(3))) - 1);
        let all = self.lock();
        let matching = all.iter().filter(|one| one.affinity & mask == affinity & mask);
        matching.map(|one| one.power()).collect()
    }

    /// Interrupts every vCPU's wait for an interrupt.
    pub(super) fn wake(&self) {
        self.lock().iter().for_each(|one| one.wake());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Presence>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
