//! Messages on standard error. An error prints what failed, and then each cause.

use std::error::Error;
use std::io::{self, IsTerminal, StdoutLock, Write};

/// Prints an error and its causes to standard error.
pub(crate) fn error(error: &dyn Error) {
    write(&render(error));
}

/// Prints an error that is only a text.
pub(crate) fn problem(text: &str) {
    write(&format!("error: {text}\n"));
}

/// Prints a warning.
pub(crate) fn warning(text: &str) {
    write(&format!("warning: {text}\n"));
}

/// Prints a note.
pub(crate) fn note(text: &str) {
    write(&format!("{text}\n"));
}

/// Standard output for an archive, which must not go to a terminal.
pub(crate) fn stdout_for_archive() -> Result<StdoutLock<'static>, crate::error::Error> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(crate::error::UsageError::ArchiveToTerminal.into());
    }
    Ok(stdout.lock())
}

/// Writes a whole line at once, so that other programs cannot interleave.
fn write(line: &str) {
    // There is no other place to report a failure.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

fn render(error: &dyn Error) -> String {
    let mut last = error.to_string();
    let mut out = format!("error: {}\n", indent(&last));
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Skip transparent wrappers.
        if text != last {
            out += &format!("  because {}\n", indent(&text));
        }
        last = text;
        source = cause.source();
    }
    out
}

/// Indents all lines but the first.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer {
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Middle(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner\nwith a second line")]
    struct Inner;

    #[test]
    fn causes_follow_on_their_own_lines() {
        let text = render(&Outer { source: Middle(Inner) });
        assert_eq!(text, "error: outer\n  because inner\n    with a second line\n");
    }
}
