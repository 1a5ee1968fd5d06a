//! How long each step took.

use std::time::{Duration, Instant};

/// What a machine was started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The snapshot's mapped form.
    Mapped,
    /// The pack itself: pages come when they are touched. The mapped form is made meanwhile.
    OnDemand,
    /// The snapshot's mapped form, which was made first.
    Expanded,
}

/// The steps of a start, in order, each with the time that it took.
#[derive(Debug, Clone)]
pub struct Timings {
    last: Instant,
    way: Way,
    steps: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Self {
        Self { last: Instant::now(), way: Way::Mapped, steps: Vec::with_capacity(16) }
    }

    /// Timings with one step that took `took`.
    #[must_use]
    pub fn of_step(name: &'static str, took: Duration) -> Self {
        Self { last: Instant::now(), way: Way::Mapped, steps: vec![(name, took)] }
    }

    /// Ends a step that began where the one before it ended.
    pub fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        self.steps.push((name, now - self.last));
        self.last = now;
    }

    /// What the machine was started from.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Sets what the machine was started from.
    pub fn set_way(&mut self, way: Way) {
        self.way = way;
    }

    /// The steps so far.
    #[must_use]
    pub fn steps(&self) -> &[(&'static str, Duration)] {
        &self.steps
    }

    /// The time that all steps took together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.steps.iter().map(|(_, duration)| *duration).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_and_add_up() {
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
