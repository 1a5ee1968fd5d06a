//! How errors are told: what failed, and then why, cause by cause.

use std::error::Error;
use std::io::{self, IsTerminal, StdoutLock, Write};

/// Prints an error and its causes to standard error.
pub(crate) fn error(error: &dyn Error) {
    say(&render(error));
}

/// Prints something that is no failure but should be known.
pub(crate) fn warning(text: &str) {
    say(&format!("warning: {text}\n"));
}

/// Prints a remark.
pub(crate) fn note(text: &str) {
    say(&format!("{text}\n"));
}

/// Standard output for an archive, which is not for a terminal.
pub(crate) fn stdout_for_archive() -> Result<StdoutLock<'static>, crate::error::Error> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(crate::error::Error::ArchiveToTerminal);
    }
    Ok(stdout.lock())
}

/// A whole line at once, so that none of another program comes between.
fn say(line: &str) {
    // Where that fails, there is nobody to tell.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

fn render(error: &dyn Error) -> String {
    let mut last = error.to_string();
    let mut out = format!("error: {}\n", indent(&last));
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // A wrapper that only passes its cause on says nothing new.
        if text != last {
            out += &format!("  because {}\n", indent(&text));
        }
        last = text;
        source = cause.source();
    }
    out
}

/// Puts the further lines of a text, such as a guest's output, under the first.
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
    fn causes_follow_line_by_line() {
        let text = render(&Outer { source: Middle(Inner) });
        assert_eq!(text, "error: outer\n  because inner\n    with a second line\n");
    }
}
