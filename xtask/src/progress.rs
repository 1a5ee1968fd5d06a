//! Progress of a long step: a bar on a terminal, occasional lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const PERIOD: Duration = Duration::from_secs(30);

/// One long step.
#[derive(Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
    name: String,
    began: Instant,
    printed: Instant,
    plain: bool,
}

impl Step {
    /// Starts a step of about `length` parts; 0 if their number is unknown.
    pub(crate) fn new(name: &str, length: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let template = if length > 0 {
            "{msg} [{elapsed}] {wide_bar} {pos}/{len}"
        } else {
            "{msg} [{elapsed}] {spinner}"
        };
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(length) };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.set_length(length);
        if plain {
            eprintln!("{name} …");
        } else {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let now = Instant::now();
        Self { bar, name: name.to_owned(), began: now, printed: now, plain }
    }

    /// Counts one more finished part.
    pub(crate) fn advance(&mut self) {
        self.bar.inc(1);
        let (done, length) = (self.bar.position(), self.bar.length().unwrap_or(0));
        // The number of parts is an estimate; a full bar looks stuck.
        if done >= length {
            self.bar.set_length(done + 1);
        }
        if self.plain && self.printed.elapsed() >= PERIOD {
            self.printed = Instant::now();
            eprintln!("{}: {done} of about {}", self.name, length.max(done));
        }
    }

    /// Finishes the step and prints its duration.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
        eprintln!("{}: done in {:.1} s", self.name, self.began.elapsed().as_secs_f64());
    }
}
