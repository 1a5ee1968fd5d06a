//! QEMU's monitor: the little that is asked of a host that stands still.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an answer may take to begin, and each part of it to follow. A QEMU that stands still as a
/// whole gives none.
const LIMIT: Duration = Duration::from_secs(3);
/// What the monitor prints when it is ready for a command.
const PROMPT: &str = "(qemu) ";

/// The answer to a command, as far as it came in time.
pub(super) fn ask(monitor: &mut UnixStream, command: &str) -> String {
    let mut said = Vec::new();
    let asked = monitor
        .set_read_timeout(Some(LIMIT))
        .and_then(|()| monitor.write_all(format!("{command}\n").as_bytes()));
    if let Err(error) = asked {
        return format!("QEMU's monitor cannot be asked: {error}\n");
    }
    let mut part = [0; 4096];
    // The command is echoed behind the first prompt; the answer stands between that and the next.
    while let Ok(n @ 1..) = monitor.read(&mut part) {
        said.extend(part.iter().take(n));
        let text = String::from_utf8_lossy(&said);
        if let Some(answer) = text.split_once(command).map(|(_, rest)| rest)
            && let Some(answer) = answer.strip_suffix(PROMPT)
        {
            return answer.trim_start().to_owned();
        }
    }
    format!("QEMU's monitor does not answer; it said {:?}\n", String::from_utf8_lossy(&said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_what_stands_between_the_command_and_the_next_prompt() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"QEMU monitor\r\n(qemu) info registers\r\nRIP=1\r\n(qemu) ").unwrap();
        assert_eq!(ask(&mut ours, "info registers"), "RIP=1\r\n");
    }

    #[test]
    fn monitor_that_goes_away_is_said() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"(qemu) ").unwrap();
        drop(theirs);
        assert!(ask(&mut ours, "info registers").contains("cannot be asked"));
    }
}
