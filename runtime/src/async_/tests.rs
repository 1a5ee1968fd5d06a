//! Sessions and transfers over socket pairs, with the test as the agent. Each await polls its
//! future once, drops it, and makes a new one.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Exit, ExitStatus as WireStatus, Failure, Flow, Input, Message, Output, Reply, STDIN_WINDOW,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::logs::pass;
use super::session::Session;
use super::transfer::Transfer;
use super::*;
use crate::Error;
use crate::agent::testing::{hear, say};
use crate::error::{InvalidInput, ProtocolError, TransferError};
use crate::exec::{Conversation, ReplyDeadline};
use crate::machine::testing::{running, stopped, stream};
use crate::machine::{AgentStream, MachineHandle};

const NO_LIMIT: usize = usize::MAX;
/// A timeout that only a hang reaches.
const HANG: Duration = Duration::from_secs(60);

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn several() -> Runtime {
    Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

/// A child of a fake agent, within a runtime.
fn pair() -> (ExecChild, UnixStream) {
    pair_with(Conversation::new(None).with_input(0, Vec::new(), true), stopped())
}

fn pair_with(talk: Conversation, machine: Arc<dyn MachineHandle>) -> (ExecChild, UnixStream) {
    let (session, agent) = session(talk, machine);
    (ExecChild::new(session, NO_LIMIT), agent)
}

fn session(talk: Conversation, machine: Arc<dyn MachineHandle>) -> (Arc<Session>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(HANG)).unwrap();
    theirs.set_write_timeout(Some(HANG)).unwrap();
    (Session::on(AgentStream { stream: ours, machine }, talk).unwrap(), theirs)
}

fn exited(status: WireStatus) -> Reply {
    Reply::Exited(Exit { status, timed_out: false, duration_us: 1500, peak_rss_kib: 9 })
}

/// Polls a future once, and drops it.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Awaits with a new future for each poll.
macro_rules! anew {
    ($future:expr) => {
        loop {
            if let Some(output) = once($future).await {
                break output;
            }
            sleep(Duration::from_micros(100)).await;
        }
    };
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(HANG, future).await.expect("it hangs")
}

#[test]
fn output_streams_stay_separate_and_in_order() {
    single().block_on(async {
        let (child, mut agent) = pair();
        say(
            &mut agent,
            &[
                Reply::Started { pid: 1 },
                Reply::Stdout(b"a".to_vec()),
                Reply::Stderr(b"x".to_vec()),
                Reply::Stdout(b"b".to_vec()),
                exited(WireStatus::Code(3)),
            ],
        );
        let outcome = soon(child.wait_with_output()).await.unwrap();
        assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"ab"[..], &b"x"[..]));
        assert_eq!(outcome.status.code(), Some(3));
        assert_eq!(outcome.duration, Duration::from_micros(1500));
    });
}

#[test]
fn errors_match_the_blocking_api() {
    single().block_on(async {
        let failure = Failure { operation: "execve".into(), subject: "/none".into(), errno: 2 };
        let (child, mut agent) = pair();
        say(&mut agent, &[Reply::Failed(failure)]);
        let text = child.wait_with_output().await.unwrap_err().to_string();
        assert_eq!(
            text,
            "in the guest, execve of /none failed: no such file or directory (errno 2)"
        );

        let (mut child, mut agent) = pair();
        say(&mut agent, &[Reply::Done]);
        let end = child.wait().await;
        assert!(
            matches!(
                end,
                Err(Error::Protocol { source: ProtocolError::UnexpectedReply { request: "exec" } })
            ),
            "{end:?}"
        );

        let (talk, machine) = (Conversation::new(None), stopped());
        let (session, mut agent) = session(talk, machine);
        say(&mut agent, &[Reply::Stderr(vec![1; 11])]);
        let end = ExecChild::new(session, 10).wait_with_output().await;
        let told = matches!(
            end,
            Err(Error::Transfer {
                source: TransferError::OutputTooLarge { stream: "standard error", limit: 10 }
            })
        );
        assert!(told, "{end:?}");

        let limit = Duration::from_millis(50);
        let talk = Conversation::new(ReplyDeadline::new(limit, Duration::ZERO));
        let (mut child, _agent) = pair_with(talk, running());
        let end = anew!(child.wait());
        assert!(matches!(end, Err(Error::Unanswered { limit: told }) if told == limit), "{end:?}");
    });
}

#[test]
fn agent_that_trickles_output_or_reads_nothing_is_given_up() {
    let conversation = || {
        Conversation::new(ReplyDeadline::new(Duration::from_millis(30), Duration::from_millis(200)))
    };
    single().block_on(soon(async {
        let (child, mut agent) = pair_with(conversation(), running());
        let agent = thread::spawn(move || {
            let byte = Reply::Stdout(b"x".to_vec()).to_frame();
            while agent.write_all(&byte).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let end = child.wait_with_output().await;
        assert!(matches!(end, Err(Error::Unanswered { .. })), "{end:?}");
        agent.join().unwrap();

        let talk = conversation().with_input(0, vec![0; 4 << 20], false);
        let (child, _agent) = pair_with(talk, running());
        let end = child.wait_with_output().await;
        assert!(matches!(end, Err(Error::Unanswered { .. })), "{end:?}");
    }));
}

#[test]
fn agent_that_replied_in_time_is_not_given_up() {
    let limit = Duration::from_millis(30);
    single().block_on(async {
        let talk = Conversation::new(ReplyDeadline::new(limit, Duration::ZERO));
        let (child, mut agent) = pair_with(talk, running());
        say(&mut agent, &[Reply::Stdout(b"said".to_vec()), exited(WireStatus::Code(0))]);
        // No other task of the runtime runs in between.
        thread::sleep(2 * limit);
        assert_eq!(child.wait_with_output().await.unwrap().stdout, b"said");
    });
}

#[test]
fn dropped_futures_lose_no_byte_and_no_result() {
    let bytes = |seed: usize| (0..300_000).map(move |n| (n * seed % 251) as u8).collect::<Vec<_>>();
    let (stdout, stderr) = (bytes(3), bytes(5));
    let (sent_out, sent_err) = (stdout.clone(), stderr.clone());
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        let agent = thread::spawn(move || {
            for (out, err) in sent_out.chunks(4999).zip(sent_err.chunks(4999)) {
                let frames = [Reply::Stdout(out.to_vec()), Reply::Stderr(err.to_vec())];
                let frames: Vec<u8> = frames.iter().flat_map(Message::to_frame).collect();
                // Frames may arrive in pieces.
                for piece in frames.chunks(3001) {
                    agent.write_all(piece).unwrap();
                    thread::yield_now();
                }
            }
            say(&mut agent, &[exited(WireStatus::Code(7))]);
            agent
        });
        let (mut out, mut err) = (child.stdout().unwrap(), child.stderr().unwrap());
        let (mut got_out, mut got_err) = (Vec::new(), Vec::new());
        let mut piece = [0; 701];
        let mut exit = None;
        while got_out.len() < stdout.len() || got_err.len() < stderr.len() {
            if let Some(count) = once(out.read(&mut piece)).await {
                got_out.extend_from_slice(&piece[..count.unwrap()]);
            }
            if let Some(count) = once(err.read(&mut piece)).await {
                got_err.extend_from_slice(&piece[..count.unwrap()]);
            }
            if exit.is_none() {
                exit = once(child.wait()).await;
            }
            tokio::task::yield_now().await;
        }
        assert!(got_out == stdout && got_err == stderr);
        let exit = match exit {
            Some(exit) => exit,
            None => anew!(child.wait()),
        };
        assert_eq!(exit.unwrap().status.code(), Some(7));
        assert_eq!(anew!(out.read(&mut piece)).unwrap(), 0);
        assert_eq!(anew!(child.wait()).unwrap().status.code(), Some(7));
        agent.join().unwrap();
    }));
}

#[test]
fn dropped_writes_send_each_byte_once() {
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = input.clone();
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        let agent = thread::spawn(move || {
            let (mut got, mut untold) = (Vec::new(), 0);
            loop {
                match hear(&mut agent) {
                    Input::Data(bytes) => {
                        untold += bytes.len();
                        assert!(untold <= STDIN_WINDOW);
                        got.extend(bytes);
                    }
                    Input::DataEnd => break,
                    other => panic!("{other:?}"),
                }
                if untold >= STDIN_WINDOW / 2 {
                    say(&mut agent, &[Reply::StdinTaken(u32::try_from(untold).unwrap())]);
                    untold = 0;
                }
            }
            say(&mut agent, &[exited(WireStatus::Code(0))]);
            got
        });
        let mut stdin = child.stdin().unwrap();
        let mut rest = &input[..];
        while !rest.is_empty() {
            let count = anew!(stdin.write(rest)).unwrap();
            rest = &rest[count..];
        }
        anew!(stdin.flush()).unwrap();
        anew!(stdin.shutdown()).unwrap();
        assert!(anew!(child.wait()).unwrap().success());
        assert!(agent.join().unwrap() == expected);
    }));
}

#[test]
fn many_tasks_wait_on_one_stream() {
    for runtime in [single(), several()] {
        runtime.block_on(soon(async {
            let (mut child, mut agent) = pair();
            let agent = thread::spawn(move || {
                for _ in 0..200 {
                    say(
                        &mut agent,
                        &[Reply::Stdout(vec![1; 10_000]), Reply::Stderr(vec![2; 5000])],
                    );
                }
                say(&mut agent, &[exited(WireStatus::Signal(9))]);
                agent
            });
            let (mut out, mut err) = (child.stdout().unwrap(), child.stderr().unwrap());
            let out = tokio::spawn(async move { out.read_to_end(&mut Vec::new()).await });
            let err = tokio::spawn(async move { err.read_to_end(&mut Vec::new()).await });
            let exit = tokio::spawn(async move { child.wait().await });
            assert_eq!(out.await.unwrap().unwrap(), 2_000_000);
            assert_eq!(err.await.unwrap().unwrap(), 1_000_000);
            assert_eq!(exit.await.unwrap().unwrap().status.signal(), Some(9));
            agent.join().unwrap();
        }));
    }
}

#[test]
fn one_stream_is_readable_while_the_other_is_paused() {
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        let agent = thread::spawn(move || {
            let mut sent = 0;
            while sent < 5 {
                say(&mut agent, &[Reply::Stderr(vec![2; 64 << 10])]);
                sent += 1;
            }
            let paused = Input::Flow { output: Output::Stderr, flow: Flow::Paused };
            assert_eq!(hear(&mut agent), paused);
            say(&mut agent, &[Reply::Stdout(b"free".to_vec())]);
            assert_eq!(hear(&mut agent), Input::Flow { output: Output::Stderr, flow: Flow::Open });
            say(&mut agent, &[exited(WireStatus::Code(0))]);
            (agent, sent * (64 << 10))
        });
        let mut stdout = child.stdout().unwrap();
        let mut four = [0; 4];
        stdout.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"free");
        let mut rest = Vec::new();
        child.stderr().unwrap().read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), agent.join().unwrap().1);
        assert!(child.wait().await.unwrap().success());
    }));
}

#[test]
fn waiting_for_one_stream_buffers_little_of_the_other() {
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        agent.set_nonblocking(true).unwrap();
        let frame = Reply::Stdout(vec![1; 64 << 10]).to_frame();
        let (mut sent, mut stdout, mut stderr) =
            (0, child.stdout().unwrap(), child.stderr().unwrap());
        let mut idle = 0;
        // An agent that ignores flow control.
        while idle < 50 {
            assert!(once(stderr.read(&mut [0])).await.is_none());
            match agent.write(&frame[sent % frame.len()..]) {
                Ok(count) => (sent, idle) = (sent + count, 0),
                Err(_) => idle += 1,
            }
            sleep(Duration::from_micros(200)).await;
        }
        assert!(sent < 4 << 20, "{sent}");
        // The rest of the frame in progress, and one for the waiting caller.
        let rest = frame[sent % frame.len()..].to_vec();
        let reader = tokio::spawn(async move { stdout.read_to_end(&mut Vec::new()).await });
        agent.set_nonblocking(false).unwrap();
        let agent = thread::spawn(move || {
            agent.write_all(&rest).unwrap();
            say(&mut agent, &[Reply::Stderr(b"x".to_vec()), exited(WireStatus::Code(0))]);
            agent
        });
        assert_eq!(stderr.read(&mut [0]).await.unwrap(), 1);
        let frames = sent.div_ceil(frame.len());
        assert_eq!(reader.await.unwrap().unwrap(), frames * (64 << 10));
        agent.join().unwrap();
    }));
}

#[test]
fn dropped_streams_are_closed_without_a_waiter() {
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        drop(child.stdout());
        assert_eq!(hear(&mut agent), Input::Flow { output: Output::Stdout, flow: Flow::Closed });
        // There is no room for later frames.
        let mut stdin = child.stdin().unwrap();
        let mut sent = 0;
        while let Some(count) = once(stdin.write(&[5; 60_000])).await {
            sent += count.unwrap();
        }
        drop(stdin);
        child.signal(15).unwrap();
        assert!(matches!(
            child.signal(65),
            Err(Error::Invalid { source: InvalidInput::Signal { number: 65 } })
        ));
        child.resize(2, 3).unwrap();
        let agent = thread::spawn(move || {
            let mut got = 0;
            let next = loop {
                match hear(&mut agent) {
                    Input::Data(bytes) => got += bytes.len(),
                    other => break other,
                }
            };
            let heard = [next, hear(&mut agent), hear(&mut agent)];
            (got, heard, agent)
        });
        while !agent.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        let (got, heard, mut agent) = agent.join().unwrap();
        assert_eq!(got, sent);
        assert!(
            matches!(heard, [Input::DataEnd, Input::Signal(15), Input::Resize(_)]),
            "{heard:?}"
        );
        assert!(child.try_wait().unwrap().is_none());
        let (signaler, mut stderr) = (child.signaler(), child.stderr().unwrap());
        drop(child);
        assert_eq!(agent.read(&mut [0]).unwrap(), 0);
        signaler.signal(9).unwrap();
        let error = stderr.read(&mut [0]).await.unwrap_err();
        assert!(error.to_string().contains("cancelled"), "{error}");
    }));
}

#[test]
fn dropped_outcome_kills_the_command_while_its_streams_live() {
    single().block_on(async {
        let (mut child, mut agent) = pair();
        let mut stdout = child.stdout().unwrap();
        assert!(once(child.wait_with_output()).await.is_none());
        assert_eq!(hear(&mut agent), Input::DataEnd);
        assert_eq!(agent.read(&mut [0]).unwrap(), 0);
        assert!(stdout.read(&mut [0]).await.is_err());
    });
}

#[test]
fn closed_stdin_breaks_the_pipe() {
    single().block_on(soon(async {
        let (mut child, mut agent) = pair();
        let mut stdin = child.stdin().unwrap();
        say(&mut agent, &[Reply::Started { pid: 1 }, Reply::StdinClosed]);
        let error = loop {
            if let Err(error) = stdin.write(&[0; 65536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        say(&mut agent, &[exited(WireStatus::Code(0))]);
        assert!(child.wait().await.unwrap().success());
        assert!(child.try_wait().unwrap().unwrap().success());
    }));
}

#[test]
fn guest_exit_fails_all_waiters() {
    for runtime in [single(), several()] {
        runtime.block_on(soon(async {
            let (mut child, agent) = pair();
            let (mut out, mut stdin) = (child.stdout().unwrap(), child.stdin().unwrap());
            let reader = tokio::spawn(async move { out.read(&mut [0]).await });
            let writer = tokio::spawn(async move { stdin.write_all(&[0; 4 << 20]).await });
            let waiter = tokio::spawn(async move { child.wait().await });
            sleep(Duration::from_millis(20)).await;
            drop(agent);
            for error in [reader.await.unwrap().unwrap_err(), writer.await.unwrap().unwrap_err()] {
                assert!(error.get_ref().is_some_and(|inner| inner.is::<Error>()), "{error:?}");
            }
            assert!(matches!(waiter.await.unwrap(), Err(Error::Stopped)));
        }));
    }
}

#[test]
fn exit_reason_is_found_through_dropped_futures() {
    single().block_on(soon(async {
        let talk = Conversation::new(None);
        let (mut child, agent) = pair_with(talk, running());
        drop(agent);
        let begin = Instant::now();
        assert!(once(child.wait()).await.is_none());
        assert!(child.try_wait().unwrap().is_none());
        assert!(matches!(
            anew!(child.wait()),
            Err(Error::Protocol { source: ProtocolError::AgentGone })
        ));
        assert!(begin.elapsed() >= Duration::from_secs(1));
        assert!(matches!(
            child.try_wait(),
            Err(Error::Protocol { source: ProtocolError::AgentGone })
        ));
    }));
}

#[test]
fn file_is_written_whole_through_dropped_futures() {
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = content.clone();
    single().block_on(soon(async {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut got = Vec::new();
            while let Input::Data(bytes) = hear(&mut agent) {
                got.extend(bytes);
            }
            say(&mut agent, &[Reply::Done]);
            (got, agent)
        });
        let mut transfer = Transfer::on(stream(ours)).unwrap();
        let mut rest = &content[..];
        while !rest.is_empty() {
            let count = anew!(poll_fn(|cx| transfer.poll_send(cx, rest))).unwrap();
            rest = &rest[count..];
        }
        anew!(transfer.finish()).unwrap();
        assert!(agent.join().unwrap().0 == expected);
    }));
}

#[test]
fn file_is_read_whole_through_dropped_futures() {
    let content: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = content.clone();
    single().block_on(soon(async {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            for bytes in sent.chunks(60_001) {
                say(&mut agent, &[Reply::Data(bytes.to_vec()), Reply::Data(Vec::new())]);
            }
            say(&mut agent, &[Reply::Done]);
            agent
        });
        let mut transfer = Transfer::on(stream(ours)).unwrap();
        let (mut got, mut piece) = (Vec::new(), [0; 7001]);
        while let Some(count) = anew!(transfer.receive(&mut piece)).unwrap() {
            got.extend_from_slice(&piece[..count]);
        }
        assert!(got == content);
        assert!(anew!(transfer.receive(&mut piece)).unwrap().is_none());
        agent.join().unwrap();
    }));
}

#[test]
fn refused_file_fails_its_writer() {
    single().block_on(soon(async {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let failure = Failure { operation: "write".into(), subject: "/x".into(), errno: 28 };
        say(&mut agent, &[Reply::Failed(failure)]);
        drop(agent);
        let mut transfer = Transfer::on(stream(ours)).unwrap();
        let end = transfer.send_all(&[1; 1 << 20]).await.unwrap_err().into_error();
        assert!(matches!(end, Error::Agent { failure } if failure.errno == 28));

        let (ours, agent) = UnixStream::pair().unwrap();
        drop(agent);
        let mut transfer = Transfer::on(stream(ours)).unwrap();
        let end = anew!(transfer.finish()).unwrap_err().into_error();
        assert!(matches!(end, Error::Stopped), "{end:?}");
    }));
}

/// Compiled only, never run.
#[expect(dead_code, reason = "what it shows is shown at compile time")]
fn futures_may_be_sent_to_other_threads(vm: &Vm, pool: &Pool, child: &mut ExecChild) {
    fn sent(_: impl Send) {}
    sent(vm.exec(["true"]));
    sent(vm.exec_builder().spawn());
    sent(vm.write_file("/x", "y"));
    sent(vm.read_file("/x"));
    sent(vm.copy_in("/x", tokio::io::empty()));
    sent(vm.wait());
    sent(vm.snapshot("x"));
    sent(vm.connect(80));
    sent(child.wait());
    sent(pool.acquire());
}

#[test]
fn logs_are_passed_on_until_the_entrypoint_exits() {
    single().block_on(async {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let output = [Reply::Stdout(b"out".to_vec()), Reply::Stderr(b"err".to_vec())];
        say(&mut agent, &output);
        say(&mut agent, &[exited(WireStatus::Code(3))]);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = pass(stream(ours), &mut stdout, &mut stderr).await.unwrap();
        assert_eq!(status.and_then(crate::ExitStatus::code), Some(3));
        assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"out"[..], &b"err"[..]));
    });
}

#[test]
fn logs_of_a_stopped_machine_fail_with_stopped() {
    single().block_on(async {
        let (ours, agent) = UnixStream::pair().unwrap();
        drop(agent);
        let result = pass(stream(ours), &mut Vec::new(), &mut Vec::new()).await;
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    });
}
