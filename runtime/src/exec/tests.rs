//! How replies become an outcome, and which replies are refused.

use std::time::Duration;

use supermachine_formats::wire::{ExitStatus as WireStatus, Failure};

use super::*;

fn exited(status: WireStatus) -> Reply {
    Reply::Exited(Exit { status, timed_out: true, duration_us: 1500, peak_rss_kib: 9 })
}

/// Plays replies, then the end of the stream; gives the end and what was written.
fn play(replies: Vec<Reply>) -> (Result<Exit, Error>, Vec<u8>, Vec<u8>) {
    let mut replies = replies.into_iter();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let end = follow(
        || replies.next().ok_or(Error::AgentGone),
        |stream, bytes| {
            match stream {
                Stream::Stdout => stdout.extend_from_slice(bytes),
                Stream::Stderr => stderr.extend_from_slice(bytes),
            }
            Ok(())
        },
    );
    (end, stdout, stderr)
}

#[test]
fn output_is_kept_apart_and_in_order() {
    let (end, stdout, stderr) = play(vec![
        Reply::Started { pid: 1 },
        Reply::Stdout(b"a".to_vec()),
        Reply::Stderr(b"x".to_vec()),
        Reply::Stdout(b"b".to_vec()),
        exited(WireStatus::Code(3)),
        Reply::Stdout(b"after the end".to_vec()),
    ]);
    let outcome = ExecOutcome::new(end.unwrap(), stdout, stderr);
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"ab"[..], &b"x"[..]));
    assert_eq!(outcome.status.code(), Some(3));
    assert_eq!(outcome.duration, Duration::from_micros(1500));
    assert!(outcome.timed_out && !outcome.success());
    assert_eq!(outcome.peak_rss_kib, 9);
}

#[test]
fn a_reply_that_does_not_belong_is_refused() {
    for reply in [Reply::Done, Reply::Ports(vec![80])] {
        let (end, ..) = play(vec![Reply::Started { pid: 1 }, reply]);
        assert!(matches!(end, Err(Error::UnexpectedReply { request: "exec" })), "{end:?}");
    }
}

#[test]
fn a_failure_of_the_agent_tells_what_it_did() {
    let failure = Failure { operation: "execve".into(), subject: "/bin/none".into(), errno: 2 };
    let (end, ..) = play(vec![Reply::Failed(failure)]);
    let text = end.unwrap_err().to_string();
    assert_eq!(text, "in the guest, execve of /bin/none failed with errno 2");
}

#[test]
fn a_stream_that_ends_early_is_an_error() {
    let (end, stdout, _) = play(vec![Reply::Stdout(b"half".to_vec())]);
    assert!(matches!(end, Err(Error::AgentGone)), "{end:?}");
    assert_eq!(stdout, b"half");
}

#[test]
fn an_error_of_the_taker_ends_it_at_once() {
    let mut count = 0;
    let end = follow(
        || {
            count += 1;
            Ok(Reply::Stdout(Vec::new()))
        },
        |_, _| Err(Error::EmptyCommand),
    );
    assert!(matches!(end, Err(Error::EmptyCommand)), "{end:?}");
    assert_eq!(count, 1);
}

#[test]
fn a_status_is_a_code_or_a_signal() {
    let code = ExitStatus(WireStatus::Code(0));
    let signal = ExitStatus(WireStatus::Signal(9));
    assert!(code.success() && !signal.success());
    assert_eq!((code.code(), code.signal()), (Some(0), None));
    assert_eq!((signal.code(), signal.signal()), (None, Some(9)));
    assert_eq!([code, signal].map(|status| status.to_string()), ["exit code 0", "signal 9"]);
}
