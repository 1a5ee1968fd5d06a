//! How long each step of a start or a capture took.

use std::time::{Duration, Instant};

/// What a machine was started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreMode {
    /// The snapshot's mapped form, which existed.
    Mapped,
    /// The pack: pages arrive when the guest touches them. The mapped form is built meanwhile.
    OnDemand,
    /// The snapshot's mapped form, which was built first.
    Expanded,
}

/// Steps in order, each with its duration.
#[derive(Debug, Clone)]
pub struct Timings {
    last: Instant,
    restore_mode: RestoreMode,
    steps: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// Starts to measure.
    #[must_use]
    pub fn start() -> Self {
        Self {
            last: Instant::now(),
            restore_mode: RestoreMode::Mapped,
            steps: Vec::with_capacity(16),
        }
    }

    /// Timings with one step of this duration.
    #[must_use]
    pub fn of_step(name: &'static str, took: Duration) -> Self {
        Self { last: Instant::now(), restore_mode: RestoreMode::Mapped, steps: vec![(name, took)] }
    }

    /// Ends a step that started at the end of the one before it.
    pub fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        self.steps.push((name, now - self.last));
        self.last = now;
    }

    /// What the machine was started from.
    #[must_use]
    pub fn restore_mode(&self) -> RestoreMode {
        self.restore_mode
    }

    /// Sets what the machine was started from.
    pub fn set_restore_mode(&mut self, restore_mode: RestoreMode) {
        self.restore_mode = restore_mode;
    }

    /// The steps so far.
    #[must_use]
    pub fn steps(&self) -> &[(&'static str, Duration)] {
        &self.steps
    }

    /// The duration of all steps together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.steps.iter().map(|(_, duration)| *duration).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_order_and_add_up() {
        let begin = Instant::now();
        let mut timings = Timings::start();
        timings.step("first");
        timings.step("second");
        let names: Vec<&str> = timings.steps().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(timings.total(), timings.steps()[0].1 + timings.steps()[1].1);
        assert!(timings.total() <= begin.elapsed());
    }
}
