//! How long the parts of a run take.

use std::fmt;
use std::time::{Duration, Instant};

/// The durations of a run's parts, in their order.
#[derive(Debug, Default)]
pub(super) struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    /// Does a part of the run.
    pub(super) fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.0.push((name, began.elapsed()));
        result
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.iter();
        parts.try_for_each(|(name, took)| writeln!(f, "{:6.0} s  {name}", took.as_secs_f64()))
    }
}
