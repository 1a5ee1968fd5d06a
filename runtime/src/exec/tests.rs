//! A session over a socket pair, with the test as the agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use supermachine_formats::wire::{
    Exit, ExitStatus as WireStatus, Failure, Flow, Input, Message, Output, Reply, STDIN_WINDOW,
};

use super::conversation::{Conversation, ReplyDeadline};
use super::session::Session;
use super::*;
use crate::Error;
use crate::agent::testing::{hear, say};
use crate::error::{InvalidInput, ProtocolError, TransferError};
use crate::machine::testing::stream;

const NO_LIMIT: usize = usize::MAX;

fn pair() -> (Arc<Session>, UnixStream) {
    pair_with(interactive())
}

fn interactive() -> Conversation {
    Conversation::new(None).with_input(0, Vec::new(), true)
}

fn pair_with(talk: Conversation) -> (Arc<Session>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (Arc::new(Session::on(stream(ours), talk)), theirs)
}

fn exited(status: WireStatus) -> Reply {
    Reply::Exited(Exit { status, timed_out: true, duration_us: 1500, peak_rss_kib: 9 })
}

/// Sends replies, then closes the stream.
fn play(replies: &[Reply], limit: usize) -> Result<ExecOutcome, Error> {
    let (session, mut agent) = pair_with(Conversation::new(None));
    say(&mut agent, replies);
    agent.shutdown(std::net::Shutdown::Write).unwrap();
    session.collect(true, true, limit)
}

#[test]
fn output_streams_stay_separate_and_in_order() {
    let outcome = play(
        &[
            Reply::Started { pid: 1 },
            Reply::Stdout(b"a".to_vec()),
            Reply::Stderr(b"x".to_vec()),
            Reply::Stdout(b"b".to_vec()),
            exited(WireStatus::Code(3)),
            Reply::Stdout(b"after the end".to_vec()),
        ],
        NO_LIMIT,
    );
    let outcome = outcome.unwrap();
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"ab"[..], &b"x"[..]));
    assert_eq!(outcome.status.code(), Some(3));
    assert_eq!(outcome.duration, Duration::from_micros(1500));
    assert!(outcome.timed_out && !outcome.success());
    assert_eq!(outcome.peak_rss_kib, 9);
}

#[test]
fn unexpected_reply_is_refused() {
    for reply in [Reply::Done, Reply::Ports(vec![80]), Reply::Data(Vec::new())] {
        let end = play(&[Reply::Started { pid: 1 }, reply], NO_LIMIT);
        assert!(
            matches!(
                end,
                Err(Error::Protocol { source: ProtocolError::UnexpectedReply { request: "exec" } })
            ),
            "{end:?}"
        );
    }
}

#[test]
fn agent_failure_names_operation_and_subject() {
    let failure = Failure { operation: "execve".into(), subject: "/bin/none".into(), errno: 2 };
    let text = play(&[Reply::Failed(failure)], NO_LIMIT).unwrap_err().to_string();
    assert_eq!(
        text,
        "in the guest, execve of /bin/none failed: no such file or directory (errno 2)"
    );
}

#[test]
fn stream_that_closes_early_is_an_error() {
    let end = play(&[Reply::Stdout(b"half".to_vec())], NO_LIMIT);
    assert!(matches!(end, Err(Error::Stopped)), "{end:?}");
}

#[test]
fn output_over_the_limit_names_its_stream() {
    let replies =
        [Reply::Stdout(vec![1; 10]), Reply::Stderr(vec![2; 11]), exited(WireStatus::Code(0))];
    let end = play(&replies, 10);
    let Err(Error::Transfer { source: TransferError::OutputTooLarge { stream, limit } }) = end
    else {
        panic!("{end:?}")
    };
    assert_eq!((stream, limit), ("standard error", 10));
    assert!(play(&replies, 11).is_ok());
}

#[test]
fn silent_agent_is_given_up_at_the_deadline() {
    let limit = Duration::from_millis(30);
    let deadline = || Conversation::new(ReplyDeadline::new(limit, Duration::ZERO));
    let (session, agent) = pair_with(deadline());
    let end = session.collect(true, true, NO_LIMIT);
    assert!(matches!(end, Err(Error::Unanswered { limit: told }) if told == limit), "{end:?}");
    drop(agent);
    // A reply that arrived before the call is in time.
    let (session, mut agent) = pair_with(deadline());
    say(&mut agent, &[Reply::Stdout(b"said".to_vec()), exited(WireStatus::Code(0))]);
    thread::sleep(2 * limit);
    assert_eq!(session.collect(true, true, NO_LIMIT).unwrap().stdout, b"said");
}

#[test]
fn agent_that_trickles_output_is_given_up() {
    let (timeout, grace) = (Duration::from_millis(30), Duration::from_millis(200));
    let (session, mut agent) = pair_with(Conversation::new(ReplyDeadline::new(timeout, grace)));
    let agent = thread::spawn(move || {
        let byte = Reply::Stdout(b"x".to_vec()).to_frame();
        while agent.write_all(&byte).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let end = session.drain(true, true, &mut |_| Ok(()));
    assert!(matches!(end, Err(Error::Unanswered { .. })), "{end:?}");
    drop(session);
    agent.join().unwrap();
}

#[test]
fn agent_that_floods_the_host_is_given_up() {
    let (timeout, grace) = (Duration::from_millis(30), Duration::from_secs(3600));
    let (session, mut agent) = pair_with(Conversation::new(ReplyDeadline::new(timeout, grace)));
    let agent = thread::spawn(move || {
        let piece = Reply::Stdout(vec![0; 64 << 10]).to_frame();
        while agent.write_all(&piece).is_ok() {}
    });
    let end = session.drain(true, true, &mut |_| Ok(()));
    assert!(matches!(end, Err(Error::Unanswered { .. })), "{end:?}");
    drop(session);
    agent.join().unwrap();
}

#[test]
fn agent_that_reads_nothing_is_given_up() {
    let (timeout, grace) = (Duration::from_millis(30), Duration::from_millis(100));
    let input = vec![0; 4 << 20];
    let talk = Conversation::new(ReplyDeadline::new(timeout, grace)).with_input(0, input, false);
    let (session, agent) = pair_with(talk);
    let end = session.collect(true, true, NO_LIMIT);
    assert!(matches!(end, Err(Error::Unanswered { .. })), "{end:?}");
    drop(agent);
}

#[test]
fn slow_reader_does_not_consume_the_reply_deadline() {
    let limit = Duration::from_millis(100);
    let (session, mut agent) =
        pair_with(Conversation::new(ReplyDeadline::new(Duration::ZERO, limit)));
    let mut child = ExecChild::new(session, NO_LIMIT);
    let (mut stdout, mut stderr) = (child.stdout().unwrap(), child.stderr().unwrap());
    let agent = thread::spawn(move || {
        say(&mut agent, &vec![Reply::Stdout(vec![1; 60_000]); 5]);
        say(&mut agent, &[Reply::Stderr(vec![1])]);
        assert!(matches!(hear(&mut agent), Input::Flow { flow: Flow::Paused, .. }));
        assert!(matches!(hear(&mut agent), Input::Flow { flow: Flow::Open, .. }));
        thread::sleep(limit / 3);
        say(&mut agent, &[Reply::Stdout(vec![2; 7]), exited(WireStatus::Code(0))]);
    });
    thread::sleep(2 * limit);
    stderr.read_exact(&mut [0]).unwrap();
    let (mut all, mut piece) = (0, vec![0; 100_000]);
    loop {
        thread::sleep(2 * limit);
        match stdout.read(&mut piece).unwrap() {
            0 => break,
            count => all += count,
        }
    }
    assert_eq!(all, 300_007);
    agent.join().unwrap();
}

#[test]
fn input_is_sent_within_the_window_while_output_is_read() {
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let talk = Conversation::new(None).with_input(0, input.clone(), false);
    let (session, mut agent) = pair_with(talk);
    let host = thread::spawn(move || session.collect(true, true, NO_LIMIT).unwrap());
    let (mut got, mut untold, mut echoed) = (Vec::new(), 0, 0);
    loop {
        match hear(&mut agent) {
            Input::Data(bytes) => {
                untold += bytes.len();
                assert!(untold <= STDIN_WINDOW);
                got.extend(bytes);
            }
            Input::DataEnd => break,
            // Output may arrive faster than it is read.
            Input::Flow { output: Output::Stdout, .. } => {}
            other => panic!("{other:?}"),
        }
        if untold >= STDIN_WINDOW / 2 {
            say(
                &mut agent,
                &[
                    Reply::Stdout(vec![7; 60_000]),
                    Reply::StdinTaken(u32::try_from(untold).unwrap()),
                ],
            );
            (untold, echoed) = (0, echoed + 60_000);
        }
    }
    say(&mut agent, &[exited(WireStatus::Code(0))]);
    assert!(got == input);
    assert_eq!(host.join().unwrap().stdout.len(), echoed);
}

#[test]
fn written_input_follows_initial_input() {
    let first = vec![1; STDIN_WINDOW + 10];
    let talk = Conversation::new(None).with_input(0, first.clone(), true);
    let (session, mut agent) = pair_with(talk);
    let mut child = ExecChild::new(session, NO_LIMIT);
    let mut stdin = child.stdin().unwrap();
    let writer = thread::spawn(move || stdin.write_all(b"later"));
    let mut got = Vec::new();
    while got.len() < STDIN_WINDOW {
        let Input::Data(bytes) = hear(&mut agent) else { panic!("not input") };
        got.extend(bytes);
    }
    say(&mut agent, &[Reply::StdinTaken(u32::try_from(got.len()).unwrap())]);
    loop {
        match hear(&mut agent) {
            Input::Data(bytes) => got.extend(bytes),
            Input::DataEnd => break,
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap().unwrap();
    assert_eq!(got, [&first[..], b"later"].concat());
    say(&mut agent, &[exited(WireStatus::Code(0))]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_stream_is_readable_while_the_other_is_paused() {
    let (session, mut agent) = pair();
    let mut child = ExecChild::new(session, NO_LIMIT);
    let agent = thread::spawn(move || {
        let mut sent = 0;
        agent.set_nonblocking(false).unwrap();
        // The limit of the flow control, and the bytes in flight.
        while sent < 5 {
            say(&mut agent, &[Reply::Stderr(vec![2; 64 << 10])]);
            sent += 1;
        }
        assert_eq!(hear(&mut agent), Input::Flow { output: Output::Stderr, flow: Flow::Paused });
        say(&mut agent, &[Reply::Stdout(b"free".to_vec())]);
        assert_eq!(hear(&mut agent), Input::Flow { output: Output::Stderr, flow: Flow::Open });
        say(&mut agent, &[exited(WireStatus::Code(0))]);
        sent * (64 << 10)
    });
    let mut stdout = child.stdout().unwrap();
    let mut four = [0; 4];
    stdout.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"free");
    let mut rest = Vec::new();
    child.stderr().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), agent.join().unwrap());
    assert!(child.wait().unwrap().success());
    assert_eq!(stdout.read(&mut four).unwrap(), 0);
}

#[test]
fn dropped_streams_are_closed_in_the_guest() {
    let (session, mut agent) = pair();
    let mut child = ExecChild::new(session, NO_LIMIT);
    drop(child.stdout());
    assert_eq!(hear(&mut agent), Input::Flow { output: Output::Stdout, flow: Flow::Closed });
    drop(child.stdin());
    assert_eq!(hear(&mut agent), Input::DataEnd);
    child.signal(15).unwrap();
    assert_eq!(hear(&mut agent), Input::Signal(15));
    child.resize(2, 3).unwrap();
    assert!(matches!(hear(&mut agent), Input::Resize(_)));
    assert!(matches!(
        child.signal(65),
        Err(Error::Invalid { source: InvalidInput::Signal { number: 65 } })
    ));
    assert!(child.try_wait().unwrap().is_none());
    let (signaler, mut stderr) = (child.signaler(), child.stderr().unwrap());
    drop(child);
    assert_eq!(agent.read(&mut [0]).unwrap(), 0);
    drop(agent);
    signaler.signal(9).unwrap();
    let error = stderr.read(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
}

#[test]
fn closed_stdin_breaks_the_pipe() {
    let (session, mut agent) = pair();
    let mut child = ExecChild::new(session, NO_LIMIT);
    let mut stdin = child.stdin().unwrap();
    say(&mut agent, &[Reply::Started { pid: 1 }, Reply::StdinClosed]);
    let writer = thread::spawn(move || {
        (0..100).find_map(|_| stdin.write(&[0; 65536]).err()).map(|error| error.kind())
    });
    assert_eq!(writer.join().unwrap(), Some(std::io::ErrorKind::BrokenPipe));
    say(&mut agent, &[exited(WireStatus::Code(0))]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn many_callers_wait_on_one_stream() {
    let (session, mut agent) = pair();
    let mut child = ExecChild::new(session, NO_LIMIT);
    let read = |mut reader: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        })
    };
    let stdout = read(Box::new(child.stdout().unwrap()));
    let stderr = read(Box::new(child.stderr().unwrap()));
    let waiter = thread::spawn(move || child.wait());
    for _ in 0..200 {
        say(&mut agent, &[Reply::Stdout(vec![1; 10_000]), Reply::Stderr(vec![2; 5000])]);
    }
    say(&mut agent, &[exited(WireStatus::Signal(9))]);
    assert_eq!(stdout.join().unwrap().unwrap().len(), 2_000_000);
    assert_eq!(stderr.join().unwrap().unwrap().len(), 1_000_000);
    assert_eq!(waiter.join().unwrap().unwrap().status.signal(), Some(9));
}

#[test]
fn guest_exit_fails_all_waiters() {
    let (session, agent) = pair();
    let mut child = ExecChild::new(session, NO_LIMIT);
    let mut stdout = child.stdout().unwrap();
    let reader = thread::spawn(move || stdout.read(&mut [0]));
    drop(agent);
    let error = reader.join().unwrap().unwrap_err();
    assert!(error.get_ref().is_some_and(|inner| inner.is::<Error>()), "{error:?}");
    assert!(matches!(child.wait(), Err(Error::Stopped)));
}

#[test]
fn exit_status_is_a_code_or_a_signal() {
    let code = ExitStatus(WireStatus::Code(0));
    let signal = ExitStatus(WireStatus::Signal(9));
    assert!(code.success() && !signal.success());
    assert_eq!((code.code(), code.signal()), (Some(0), None));
    assert_eq!((signal.code(), signal.signal()), (None, Some(9)));
    assert_eq!([code, signal].map(|status| status.to_string()), ["exit code 0", "signal 9"]);
}
