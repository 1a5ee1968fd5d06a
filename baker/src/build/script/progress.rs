//! Progress of bakes in build scripts.
//!
//! Cargo shows a script's standard error live with `-vv`, and otherwise only if the script fails.
//! Every user sees one line of times and sizes afterwards.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bake::{Observer, Warning};
use crate::oci;

/// Measures each step.
pub(super) struct Progress {
    name: String,
    begin: Instant,
    /// The steps so far, each with its start. Guards nothing else.
    steps: Mutex<Vec<(String, Instant)>>,
}

impl Progress {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), begin: Instant::now(), steps: Mutex::default() }
    }

    /// The steps and their durations, as text.
    pub(super) fn summary(&self) -> String {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = steps.iter().skip(1).map(|(_, begin)| *begin).chain([Instant::now()]);
        let parts = steps.iter().zip(ends).map(|((step, begin), end)| {
            format!("{step} {}", seconds(end.saturating_duration_since(*begin)))
        });
        let parts: Vec<_> = parts.collect();
        format!("{} ({})", seconds(self.begin.elapsed()), parts.join(", "))
    }

    fn print(&self, what: &str) {
        // A closed standard error leaves no way to report it.
        let _ = writeln!(
            io::stderr(),
            "supermachine: {}: {}: {what}",
            self.name,
            seconds(self.begin.elapsed())
        );
    }
}

impl Observer for Progress {
    fn step(&self, step: &str) {
        self.print(step);
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((step.to_owned(), Instant::now()));
    }

    fn warn(&self, warning: &Warning) {
        self.print(&format!("warning: {warning}"));
    }

    fn fetch(&self, event: oci::Event<'_>) {
        match event {
            oci::Event::Resolved { reference, layers, size, .. } => {
                self.print(&format!("{reference}: {layers} layers, {}", mebibytes(size)));
            }
            oci::Event::Fetched { digest, size } => {
                self.print(&format!("fetched {digest}, {}", mebibytes(size)));
            }
            oci::Event::Damaged { digest, was_cached, .. } => {
                let place = if was_cached { "in the cache" } else { "as it arrived" };
                self.print(&format!("{digest} is damaged {place}; fetching it again"));
            }
            oci::Event::HelperFailed { error } => {
                self.print(&format!("warning: {}", with_sources(error)));
            }
            oci::Event::MirrorFailed { mirror, error } => {
                self.print(&format!("warning: mirror {mirror}: {}", with_sources(error)));
            }
            oci::Event::Waiting { error, pause } => {
                let (error, pause) = (with_sources(error), seconds(pause));
                self.print(&format!("{error}; trying again in {pause}"));
            }
            _ => {}
        }
    }
}

/// An error and its causes, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A size in MiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_every_step() {
        let progress = Progress::new("web");
        progress.step("fetch");
        progress.step("start");
        let summary = progress.summary();
        assert!(summary.contains("(fetch 0.0 s, start 0.0 s)"), "{summary}");
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(mebibytes(0), "0.0 MiB");
        assert_eq!(mebibytes(1), "0.1 MiB");
        assert_eq!(mebibytes(1 << 20), "1.0 MiB");
        assert_eq!(mebibytes(41_000_000), "39.2 MiB");
    }
}
