//! Progress of a pull on standard error: progress bars on a terminal, otherwise a line per event.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use supermachine_baker::oci::{self, Event};
use supermachine_baker::{Observer, Warning};
use supermachine_formats::Digest;

use crate::{format, report};

const TICK: Duration = Duration::from_millis(100);

/// Shows the progress of a bake.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    bars: MultiProgress,
    shown: Mutex<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

/// What the screen shows.
#[derive(Debug, Default)]
struct Shown {
    step: Option<Step>,
    /// Whether the layers are known. Earlier downloads are manifests.
    is_resolved: bool,
    layers: BTreeMap<[u8; 32], ProgressBar>,
}

#[derive(Debug)]
struct Step {
    bar: ProgressBar,
    text: String,
    began: Instant,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bars,
            (false, false) => Mode::Lines,
        };
        Self { mode, bars: MultiProgress::new(), shown: Mutex::default() }
    }

    /// Finishes the last step, and removes the bars.
    pub(crate) fn finish(&self, is_success: bool) {
        self.end_step(&mut self.shown(), is_success);
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_step(&self, shown: &mut Shown, is_success: bool) {
        for bar in std::mem::take(&mut shown.layers).into_values() {
            bar.finish_and_clear();
        }
        let Some(step) = shown.step.take() else { return };
        step.bar.finish_and_clear();
        let mark = if is_success { '✓' } else { '✗' };
        let line = format!("{mark} {}  {}", step.text, format::time(step.began.elapsed()));
        if self.mode == Mode::Bars {
            let _ = self.bars.println(line);
        }
    }

    fn line(&self, text: &str) {
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines => report::note(text),
            Mode::Bars => {
                let _ = self.bars.println(text);
            }
        }
    }

    /// Updates a layer's bar, or creates it.
    fn advance(&self, digest: Digest, received: u64, size: u64) {
        if self.mode != Mode::Bars {
            return;
        }
        let mut shown = self.shown();
        let bar = shown.layers.entry(digest.0).or_insert_with(|| {
            let style = "  {msg} {bar:30} {decimal_bytes:>10} of {decimal_total_bytes} {eta:>4}";
            self.bars.add(ProgressBar::new(size).with_style(style_of(style)))
        });
        if bar.message().is_empty() {
            bar.set_message(format::short(digest));
        }
        bar.set_position(received);
    }

    fn end_layer(&self, digest: Digest, size: u64, what: &str) {
        if let Some(bar) = self.shown().layers.remove(&digest.0) {
            bar.finish_and_clear();
        }
        let (digest, size) = (format::short(digest), format::bytes(size));
        self.line(&format!("  layer {digest} {what}, {size}"));
    }
}

impl Observer for Progress {
    fn step(&self, step: &str) {
        let text = wording(step).to_owned();
        let mut shown = self.shown();
        self.end_step(&mut shown, true);
        let bar = match self.mode {
            Mode::Quiet => return,
            Mode::Lines => {
                report::note(&text);
                ProgressBar::hidden()
            }
            Mode::Bars => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(style_of("{spinner} {msg}  {elapsed}"));
                bar.set_message(text.clone());
                bar.enable_steady_tick(TICK);
                bar
            }
        };
        shown.step = Some(Step { bar, text, began: Instant::now() });
    }

    fn warn(&self, warning: &Warning) {
        self.line(&format!("warning: {warning}"));
    }

    fn fetch(&self, event: Event<'_>) {
        // Events that concern no layer are shown at once.
        match event {
            Event::HelperFailed { error } => {
                self.line(&format!("warning: {}; continuing without it", with_sources(error)));
                return;
            }
            Event::MirrorFailed { mirror, error } => {
                self.line(&format!("warning: mirror {mirror}: {}", with_sources(error)));
                return;
            }
            Event::NotThere { reference, error } => {
                self.line(&format!("  {reference} is not there: {}", with_sources(error)));
                return;
            }
            Event::Waiting { error, pause } => {
                let (error, pause) = (with_sources(error), format::time(pause));
                self.line(&format!("  {error}; trying again in {pause}"));
                return;
            }
            Event::Damaged { digest, was_cached, .. } => {
                let digest = format::short(digest);
                let place = if was_cached { "in the cache" } else { "as it arrived" };
                self.line(&format!("  blob {digest} is damaged {place}; fetching it again"));
                return;
            }
            _ => {}
        }
        if !matches!(event, Event::Resolved { .. }) && !self.shown().is_resolved {
            return;
        }
        match event {
            Event::Resolved { reference, manifest, layers, size } => {
                self.shown().is_resolved = true;
                let (layers, size) = (format::count(layers, "layer"), format::bytes(size));
                let manifest = format::short(manifest);
                self.line(&format!("  {reference} is {manifest}, {layers}, {size}"));
            }
            Event::Cached { digest, size } => self.end_layer(digest, size, "in the cache"),
            Event::Advanced { digest, received, size } => self.advance(digest, received, size),
            Event::Retrying { digest, attempt } => {
                let digest = format::short(digest);
                self.line(&format!("  layer {digest} was interrupted, attempt {attempt}"));
            }
            Event::Fetched { digest, size } => self.end_layer(digest, size, "fetched"),
            Event::Present { digest, size } => {
                self.end_layer(digest, size, "already in the registry")
            }
            Event::Sent { digest, size } => self.end_layer(digest, size, "sent"),
            _ => {}
        }
    }
}

impl oci::Progress for Progress {
    fn event(&self, event: Event<'_>) {
        self.fetch(event);
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

/// A description of a step.
fn wording(step: &str) -> &str {
    match step {
        "fetch" => "fetching the image",
        "root file system" => "writing the root file system",
        "base" => "preparing a booted kernel",
        "start" => "starting the image",
        "wait until ready" => "waiting until it is ready",
        "capture" => "capturing the machine",
        "trial start" => "test-starting the snapshot",
        other => other,
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
