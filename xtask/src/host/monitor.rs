//! QEMU's monitor, for a dump of a host whose clock stopped.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long to wait for each part of an answer. A QEMU that hangs as a whole gives no answer.
const LIMIT: Duration = Duration::from_secs(3);
/// The monitor's prompt.
const PROMPT: &str = "(qemu) ";

/// Runs a monitor command and returns its output, or the reason why there is none.
pub(super) fn ask(monitor: &mut UnixStream, command: &str) -> String {
    let mut said = Vec::new();
    let asked = monitor
        .set_read_timeout(Some(LIMIT))
        .and_then(|()| monitor.write_all(format!("{command}\n").as_bytes()));
    if let Err(error) = asked {
        return format!("QEMU's monitor is gone: {error}\n");
    }
    let mut part = [0; 4096];
    // The monitor echoes the command after the first prompt and prints the next after the output.
    while let Ok(n @ 1..) = monitor.read(&mut part) {
        said.extend(part.iter().take(n));
        let text = String::from_utf8_lossy(&said);
        if let Some(answer) = text.split_once(command).map(|(_, rest)| rest)
            && let Some(answer) = answer.strip_suffix(PROMPT)
        {
            return answer.trim_start().to_owned();
        }
    }
    format!("QEMU's monitor does not answer; it printed {:?}\n", String::from_utf8_lossy(&said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_returns_the_text_up_to_the_next_prompt() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"QEMU monitor\r\n(qemu) info registers\r\nRIP=1\r\n(qemu) ").unwrap();
        assert_eq!(ask(&mut ours, "info registers"), "RIP=1\r\n");
    }

    #[test]
    fn ask_reports_a_monitor_that_is_gone() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"(qemu) ").unwrap();
        drop(theirs);
        assert!(ask(&mut ours, "info registers").contains("is gone"));
    }
}
