//! Human-readable sizes, times, digests and tables.

use std::time::Duration;

use supermachine_formats::Digest;

/// Bytes in decimal units, as disk vendors and registries count.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).unwrap_or(&"PB");
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A duration with a suitable unit.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.9995 {
        format!("{:.1} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// The first 12 digits of a digest.
pub(crate) fn short(digest: Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// `1 layer`, `2 layers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A word of a command line, quoted if a shell needs it.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Aligns columns. The last column is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line += &format!("{cell:width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// Indented JSON with a line ending. Serialization cannot fail without maps of non-string keys.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_get_a_suitable_unit() {
        let text = [0, 999, 1000, 45_123_456, 999_960, 123_456_789, u64::MAX].map(bytes);
        assert_eq!(text, ["0 B", "999 B", "1.0 kB", "45.1 MB", "1.0 MB", "123 MB", "18447 PB"]);
    }

    #[test]
    fn times_get_a_suitable_unit() {
        let text = [1, 999, 1_500, 61_000].map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(text, ["1.0 ms", "999.0 ms", "1.5 s", "1 min 1 s"]);
    }

    #[test]
    fn words_are_quoted_if_a_shell_needs_it() {
        let text = ["-g", "daemon off;", "", "it's"].map(shell_word);
        assert_eq!(text, ["-g", "'daemon off;'", "''", r"'it'\''s'"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A".into(), "BB".into()], ["long".into(), String::new()]];
        assert_eq!(table(&rows), "A     BB\nlong\n");
    }
}
