//! The small text file that lists the files of a mapped form.
//!
//! Each line is a word and its values. Any other text is not an error: the mapped form is made
//! again.

use std::fmt::Write;

use supermachine_formats::Digest;
use supermachine_formats::snapshot::memory::Run;

const HEAD: &str = "supermachine mapped form 2";

/// A file of the cache, with its stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) identity: Digest,
    pub(super) stamp: String,
}

/// The parts of a mapped form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// The stamp of the state file.
    pub(super) state: String,
    pub(super) base: Part,
    /// The overlay over the base, and its pages.
    pub(super) overlay: Option<(Part, Vec<Run>)>,
    pub(super) disks: Vec<Part>,
}

impl Form {
    pub(super) fn encode(&self) -> String {
        let mut text = format!("{HEAD}\nstate {}\n", self.state);
        let mut line = |word: &str, part: &Part| {
            // Writing to a string is infallible.
            let _ = writeln!(text, "{word} {} {}", part.identity.hex(), part.stamp);
        };
        line("base", &self.base);
        self.disks.iter().for_each(|disk| line("disk", disk));
        if let Some((part, runs)) = &self.overlay {
            line("overlay", part);
            for run in runs {
                let _ = writeln!(text, "run {} {}", run.first, run.count);
            }
        }
        text
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return None;
        }
        let (mut state, mut base, mut overlay, mut runs) = (None, None, None, Vec::new());
        let mut disks = Vec::new();
        for line in lines {
            let (word, rest) = line.split_once(' ')?;
            match word {
                "state" => state = Some(rest.to_owned()),
                "base" => base = Some(part(rest)?),
                "disk" => disks.push(part(rest)?),
                "overlay" => overlay = Some(part(rest)?),
                "run" => {
                    let (first, count) = rest.split_once(' ')?;
                    runs.push(Run { first: first.parse().ok()?, count: count.parse().ok()? });
                }
                _ => return None,
            }
        }
        let overlay = overlay.map(|part| (part, runs));
        Some(Self { state: state?, base: base?, overlay, disks })
    }
}

fn part(text: &str) -> Option<Part> {
    let (identity, stamp) = text.split_once(' ')?;
    Some(Part { identity: Digest::from_hex(identity).ok()?, stamp: stamp.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_round_trips() {
        let part = |name: &[u8]| Part { identity: Digest::of(name), stamp: "1 2 3".into() };
        let runs = vec![Run { first: 16, count: 32 }, Run { first: 64, count: 16 }];
        for overlay in [None, Some((part(b"overlay"), runs))] {
            let form = Form {
                state: "4 5".into(),
                base: part(b"base"),
                overlay,
                disks: vec![part(b"a"), part(b"b")],
            };
            assert_eq!(Form::decode(&form.encode()), Some(form));
        }
    }

    #[test]
    fn other_text_is_not_a_form() {
        for text in ["", HEAD, "supermachine mapped form 3\nstate 1\n", "\u{0}"] {
            assert_eq!(Form::decode(text), None, "{text:?}");
        }
        assert_eq!(Form::decode(&format!("{HEAD}\nstate 1\nbase xyz 1\n")), None);
        assert_eq!(Form::decode(&format!("{HEAD}\nnews 1\n")), None);
    }
}
