//! The whole server, in a process of its own, over Unix sockets instead of vsock.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Action, AfterRestore, Command, Container as Description, Control, ENTROPY_SIZE, Event, Exit,
    ExitStatus, Flow, Header, Input, Memory, Message, Output, Process, Reply, Request, Resume,
    STDIN_WINDOW, StagedFile, VERSION, WindowSize, WriteFile,
};

use super::*;
use crate::sys::process::testing::{fork_server, join};

const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Guest {
    control: UnixStream,
    socket: std::path::PathBuf,
    pid: u32,
}

struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: Reply,
}

impl Guest {
    fn new(serve: fn(Fd, Fd)) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("supermachine-init-{}-{number}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (control, agent) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (agent, listener) = (Fd::from_owned(agent.into()), Fd::from_owned(listener.into()));
        let pid = fork_server(&agent, &listener, serve);
        let mut guest = Self { control, socket, pid };
        assert_eq!(
            read_frame::<Event>(&mut guest.control),
            Some(Event::Hello { version: VERSION })
        );
        guest
    }

    pub(super) fn plain() -> Self {
        Self::new(|control, listener| serve(control, listener, &["/bin/true"]))
    }

    pub(super) fn send(&self, request: &Request) -> UnixStream {
        self.send_bytes(&request.to_frame())
    }

    pub(super) fn send_bytes(&self, bytes: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    fn ask(&self, request: &Request) -> Answer {
        collect(&mut self.send(request))
    }

    fn run(&self, argv: &[&str]) -> Answer {
        self.ask(&Request::Exec(command(argv)))
    }

    pub(super) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }

    /// The processor time that the agent has used, in hundredths of a second.
    pub(super) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields = stat.rsplit(") ").next().unwrap().split(' ');
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Sends a resume, as after a restore, and returns why it failed.
    pub(super) fn resume(&mut self) -> Failure {
        self.control.write_all(&Control::Resume(failing_resume()).to_frame()).unwrap();
        match read_frame(&mut self.control) {
            Some(Event::ResumeFailed(failure)) => failure,
            other => panic!("expected a failure, not {other:?}"),
        }
    }

    fn children(&self) -> String {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        std::fs::read_to_string(path).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
        join(self.pid);
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(control: Fd, listener: Fd, entrypoint: &[&str]) {
    let mut server = Server::new(control, listener, Groups::default()).unwrap();
    let argv = entrypoint.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    let entrypoint = Process { argv, ..Process::default() };
    server.set_container(Container::new(Description { entrypoint, ..Description::default() }));
    server.run().unwrap();
}

fn command(argv: &[&str]) -> Command {
    let argv = argv.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    Command { argv, ..Command::default() }
}

pub(super) fn read_frame<M: Message>(stream: &mut impl Read) -> Option<M> {
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode(header).unwrap();
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).unwrap();
    Some(M::decode(header.kind, &payload).unwrap())
}

/// Reads replies up to the final one, and the end of the stream after it.
fn collect(stream: &mut UnixStream) -> Answer {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match read_frame::<Reply>(stream).expect("a stream ends with a final reply") {
            Reply::Stdout(bytes) => stdout.extend(bytes),
            Reply::Stderr(bytes) => stderr.extend(bytes),
            Reply::Started { pid } => assert!(pid > 0),
            Reply::StdinTaken(_) | Reply::StdinClosed => {}
            last => {
                assert!(last.is_final());
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing follows a final reply");
                return Answer { stdout, stderr, last };
            }
        }
    }
}

fn exit(answer: &Answer) -> Exit {
    match &answer.last {
        Reply::Exited(exit) => *exit,
        other => panic!("expected an exit, not {other:?}"),
    }
}

fn failed(answer: &Answer) -> (&str, &str, u16) {
    match &answer.last {
        Reply::Failed(failure) => (failure.operation.as_str(), &failure.subject, failure.errno),
        other => panic!("expected a failure, not {other:?}"),
    }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::yield_now();
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

#[test]
fn command_replies_with_output_and_exit() {
    let guest = Guest::plain();
    let answer = guest.run(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let exit = exit(&answer);
    assert_eq!((exit.status, exit.timed_out), (ExitStatus::Code(3), false));
    assert!(exit.peak_rss_kib > 0 && exit.duration_us > 0);
}

#[test]
fn quick_command_is_answered_in_one_write() {
    let guest = Guest::plain();
    let whole = (0..200).any(|_| {
        let mut stream = guest.send(&Request::Exec(command(&["/bin/echo", "hi"])));
        let mut first = vec![0; 4096];
        let count = stream.read(&mut first).unwrap();
        let mut first = &first[..count];
        let frames: Vec<Reply> = std::iter::from_fn(|| read_frame(&mut first)).collect();
        matches!(frames.as_slice(), [Reply::Started { .. }, Reply::Stdout(_), Reply::Exited(_)])
    });
    assert!(whole, "none of 200 commands came in one piece");
}

#[test]
fn long_command_reports_its_start_first() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sleep", "1000"])));
    let Some(Reply::Started { pid }) = read_frame(&mut stream) else { panic!("not started") };
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn input_and_its_end_reach_the_program() {
    let guest = Guest::plain();
    let request = Request::Exec(Command { stdin: true, ..command(&["cat"]) });
    let mut stream = guest.send(&request);
    stream.write_all(&Input::Data(b"over and ".to_vec()).to_frame()).unwrap();
    stream.write_all(&Input::Data(b"back".to_vec()).to_frame()).unwrap();
    stream.write_all(&Input::DataEnd.to_frame()).unwrap();
    let answer = collect(&mut stream);
    assert_eq!(answer.stdout, b"over and back");
    assert_eq!(exit(&answer).status, ExitStatus::Code(0));
}

#[test]
fn ten_mebibytes_pass_through_a_program_unchanged() {
    let guest = Guest::plain();
    let request = Request::Exec(Command { stdin: true, ..command(&["cat"]) });
    let mut stream = guest.send(&request);
    let data: Vec<u8> = (0..10_u32 << 20).map(|n| (n % 251) as u8).collect();
    let (mut rest, mut window, mut echoed) = (data.as_slice(), STDIN_WINDOW, Vec::new());
    loop {
        while !rest.is_empty() && window > 0 {
            let (piece, behind) = rest.split_at(rest.len().min(window).min(60_000));
            stream.write_all(&Input::Data(piece.to_vec()).to_frame()).unwrap();
            (rest, window) = (behind, window - piece.len());
            if rest.is_empty() {
                stream.write_all(&Input::DataEnd.to_frame()).unwrap();
            }
        }
        match read_frame::<Reply>(&mut stream).unwrap() {
            Reply::Stdout(bytes) => echoed.extend(bytes),
            Reply::StdinTaken(count) => window += count as usize,
            Reply::Started { .. } => {}
            last => {
                assert!(matches!(last, Reply::Exited(_)), "{last:?}");
                break;
            }
        }
    }
    assert!(echoed == data);
}

#[test]
fn host_that_does_not_read_pauses_the_program() {
    let guest = Guest::plain();
    guest.run(&["true"]);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/statm", guest.pid)).unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = memory();
    let mut stream =
        guest.send(&Request::Exec(command(&["sh", "-c", "head -c 10485760 /dev/zero"])));
    let Some(Reply::Started { pid }) = read_frame(&mut stream) else { panic!("not started") };
    std::thread::sleep(Duration::from_millis(300));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the program waits");
    assert!(memory() - before < 512, "the agent holds less than 2 MiB");
    assert_eq!(collect(&mut stream).stdout.len(), 10 << 20);
}

#[test]
fn time_out_kills_the_group_and_keeps_the_output() {
    let guest = Guest::plain();
    let script = "echo before; sleep 1000 & sleep 1000";
    let request = Request::Exec(Command { timeout_ms: 300, ..command(&["sh", "-c", script]) });
    let answer = guest.ask(&request);
    let exit = exit(&answer);
    assert_eq!((exit.status, exit.timed_out), (ExitStatus::Signal(9), true));
    assert!(exit.duration_us >= 300_000);
    assert_eq!(answer.stdout, b"before\n");
    eventually("an empty process tree", || guest.children().is_empty());
}

#[test]
fn signal_reaches_the_program() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sleep", "1000"])));
    stream.write_all(&Input::Signal(15).to_frame()).unwrap();
    assert_eq!(exit(&collect(&mut stream)).status, ExitStatus::Signal(15));
}

#[test]
fn closed_stream_kills_its_program() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sh", "-c", "sleep 1000; true"])));
    let Some(Reply::Started { .. }) = read_frame(&mut stream) else { panic!("not started") };
    assert!(!guest.children().is_empty());
    drop(stream);
    eventually("an empty process tree", || guest.children().is_empty());
}

#[test]
fn process_left_behind_does_not_delay_the_exit() {
    let guest = Guest::plain();
    let answer = guest.run(&["sh", "-c", "(sleep 1000; true) & echo $!"]);
    assert_eq!(exit(&answer).status, ExitStatus::Code(0));
    let pid: u32 = String::from_utf8(answer.stdout).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    signal(pid, 9).unwrap();
}

#[test]
fn process_left_behind_can_still_write_to_its_pipe() {
    let guest = Guest::plain();
    let script = "(sleep 0.3; echo late; echo late >&2; echo late; exec sleep 1000) & echo $!";
    let answer = guest.run(&["sh", "-c", script]);
    let pid: u32 = String::from_utf8(answer.stdout).unwrap().trim().parse().unwrap();
    let arguments = format!("/proc/{pid}/cmdline");
    // It becomes another program when it is past every line.
    eventually("the end of the script", || {
        std::fs::read(&arguments).unwrap() == b"sleep\x001000\0"
    });
    signal(pid, 9).unwrap();
}

#[test]
fn descriptors_and_zombies_do_not_pile_up() {
    let guest = Guest::plain();
    guest.run(&["true"]);
    let before = guest.descriptors();
    for _ in 0..50 {
        guest.run(&["sh", "-c", "(true &) ; echo x"]);
        guest.run(&["/no/such/program"]);
        drop(guest.send(&Request::Exec(Command { stdin: true, ..command(&["cat"]) })));
    }
    eventually("closed descriptors", || guest.descriptors() == before);
    eventually("no zombie", || guest.children().is_empty());
}

#[test]
fn many_commands_run_at_once() {
    let guest = Guest::plain();
    let mut streams: Vec<_> = (0..40)
        .map(|n| {
            guest.send(&Request::Exec(command(&["sh", "-c", &format!("sleep 0.2; echo {n}")])))
        })
        .collect();
    let outputs: BTreeSet<Vec<u8>> = streams.iter_mut().map(|s| collect(s).stdout).collect();
    assert_eq!(outputs.len(), 40);
}

#[test]
fn command_that_cannot_start_reports_step_and_errno() {
    let guest = Guest::plain();
    assert_eq!(failed(&guest.run(&["no-such-program"])), ("execve", "no-such-program", 2));
    assert_eq!(failed(&guest.run(&["/no/such"])), ("execve", "/no/such", 2));
    assert_eq!(failed(&guest.run(&["/etc/passwd"])), ("execve", "/etc/passwd", 13));
    assert_eq!(failed(&guest.run(&[])), ("execve", "", 22));
    let missing = Command { cwd: Some(b"/no/such".to_vec()), ..command(&["true"]) };
    assert_eq!(failed(&guest.ask(&Request::Exec(missing))), ("chdir", "/no/such", 2));
    let unknown = Command { user: Some("nobody-here".into()), ..command(&["true"]) };
    assert_eq!(failed(&guest.ask(&Request::Exec(unknown))), ("find user", "nobody-here", 2));
}

#[test]
fn program_starts_with_clean_state() {
    let guest = Guest::plain();
    let script = "echo /proc/self/fd/*; grep SigBlk /proc/self/status; pwd; \
        ulimit -Sn; ulimit -Hn; cut -d' ' -f5,6 /proc/$$/stat; echo $$";
    let cwd = Some(b"/usr".to_vec());
    let answer = guest.ask(&Request::Exec(Command { cwd, ..command(&["sh", "-c", script]) }));
    let text = String::from_utf8(answer.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [fds, mask, cwd, soft, hard, group, pid] = lines[..] else { panic!("{lines:?}") };
    assert_eq!(fds, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3");
    assert_eq!(mask, "SigBlk:\t0000000000000000");
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!((cwd, soft, Some(hard)), ("/usr", "1024", files.split_whitespace().nth(4)));
    assert_eq!(group, format!("{pid} {pid}"), "process group and session are its own");
}

#[test]
fn the_environment_is_the_containers_with_the_commands_own() {
    let guest = Guest::plain();
    let env = vec![b"A=b c".to_vec()];
    let answer = guest.ask(&Request::Exec(Command { env: env.clone(), ..command(&["env"]) }));
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(text.contains("A=b c\n") && text.contains("PATH=/usr/local/sbin:"), "{text}");
    let clear = Command { env, env_clear: true, ..command(&["/usr/bin/env"]) };
    assert_eq!(guest.ask(&Request::Exec(clear)).stdout, b"A=b c\n");
}

#[test]
fn another_user_gets_its_ids_and_may_open_its_output_by_name() {
    let guest = Guest::plain();
    let script = "id -u; id -g; id -G; echo named > /dev/stdout; echo err > /proc/self/fd/2";
    let user = Some("65533:65532".into());
    let answer = guest.ask(&Request::Exec(Command { user, ..command(&["sh", "-c", script]) }));
    if is_root() {
        assert_eq!(answer.stdout, b"65533\n65532\n65532\nnamed\n");
        assert_eq!(answer.stderr, b"err\n");
    } else {
        // Without the right to change its user, the agent must say so and not run as itself.
        assert_eq!(failed(&answer).2, 1);
    }
}

#[test]
fn input_beyond_the_window_closes_the_stream_and_kills_the_program() {
    let guest = Guest::plain();
    let mut stream =
        guest.send(&Request::Exec(Command { stdin: true, ..command(&["sleep", "1000"]) }));
    // The pipe itself takes 64 KiB.
    let frame = Input::Data(vec![0; 64 << 10]).to_frame();
    let refused = (0..10).any(|_| stream.write_all(&frame).is_err());
    let end = std::iter::from_fn(|| read_frame::<Reply>(&mut stream)).last();
    assert!(refused || !matches!(end, Some(Reply::Exited(_))), "{end:?}");
    eventually("an empty process tree", || guest.children().is_empty());
}

#[test]
fn signal_overtakes_unread_input() {
    let guest = Guest::plain();
    let mut stream =
        guest.send(&Request::Exec(Command { stdin: true, ..command(&["sleep", "1000"]) }));
    for _ in 0..STDIN_WINDOW / 65536 {
        stream.write_all(&Input::Data(vec![0; 64 << 10]).to_frame()).unwrap();
    }
    stream.write_all(&Input::Signal(15).to_frame()).unwrap();
    assert_eq!(exit(&collect(&mut stream)).status, ExitStatus::Signal(15));
}

#[test]
fn closed_input_is_reported_once() {
    let guest = Guest::plain();
    let script = "exec <&-; echo closed; sleep 0.5";
    let mut stream =
        guest.send(&Request::Exec(Command { stdin: true, ..command(&["sh", "-c", script]) }));
    let (mut told, mut output) = (0, Vec::new());
    loop {
        match read_frame::<Reply>(&mut stream).unwrap() {
            Reply::Stdout(bytes) => {
                output.extend(bytes);
                for _ in 0..3 {
                    stream.write_all(&Input::Data(b"x".to_vec()).to_frame()).unwrap();
                }
            }
            Reply::StdinClosed => told += 1,
            Reply::Exited(exit) => {
                assert_eq!(exit.status, ExitStatus::Code(0));
                break;
            }
            _ => {}
        }
    }
    assert_eq!((told, output.as_slice()), (1, &b"closed\n"[..]));
}

#[test]
fn a_paused_output_waits_while_the_other_flows() {
    let guest = Guest::plain();
    let script = "read go; head -c 300000 /dev/zero >&2 & echo out; wait";
    let mut stream =
        guest.send(&Request::Exec(Command { stdin: true, ..command(&["sh", "-c", script]) }));
    let flow = |flow| Input::Flow { output: Output::Stderr, flow }.to_frame();
    stream.write_all(&flow(Flow::Paused)).unwrap();
    stream.write_all(&Input::Data(b"go\n".to_vec()).to_frame()).unwrap();
    let mut errors = 0;
    loop {
        match read_frame::<Reply>(&mut stream).unwrap() {
            Reply::Stderr(bytes) => errors += bytes.len(),
            Reply::Stdout(bytes) => {
                assert_eq!((bytes.as_slice(), errors), (&b"out\n"[..], 0));
                stream.write_all(&flow(Flow::Open)).unwrap();
            }
            Reply::Exited(_) => break,
            _ => {}
        }
    }
    assert_eq!(errors, 300_000);
}

#[test]
fn closed_output_breaks_the_programs_pipe() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["yes"])));
    let Some(Reply::Started { .. }) = read_frame(&mut stream) else { panic!("not started") };
    stream
        .write_all(&Input::Flow { output: Output::Stdout, flow: Flow::Closed }.to_frame())
        .unwrap();
    // What runs tests may have it ignore the signal; then its writes fail.
    let status = exit(&collect(&mut stream)).status;
    assert!(matches!(status, ExitStatus::Signal(13) | ExitStatus::Code(1)), "{status:?}");
}

#[test]
fn chain_runs_until_a_command_fails() {
    let guest = Guest::plain();
    let words = |argv: &[&str]| command(argv).argv;
    let chain = |rest: &[&[&str]]| {
        let chain = rest.iter().map(|argv| words(argv)).collect();
        guest.ask(&Request::Exec(Command { chain, ..command(&["echo", "one"]) }))
    };
    let all = chain(&[&["echo", "two"], &["sh", "-c", "sleep 0.05; echo three; exit 4"]]);
    assert_eq!(
        (all.stdout.as_slice(), exit(&all).status),
        (&b"one\ntwo\nthree\n"[..], ExitStatus::Code(4))
    );
    assert!(exit(&all).duration_us >= 50_000);
    let stopped = chain(&[&["false"], &["echo", "never"]]);
    assert_eq!(
        (stopped.stdout.as_slice(), exit(&stopped).status),
        (&b"one\n"[..], ExitStatus::Code(1))
    );
    let missing = chain(&[&["/no/such"], &["echo", "never"]]);
    assert_eq!(
        (missing.stdout.as_slice(), failed(&missing)),
        (&b"one\n"[..], ("execve", "/no/such", 2))
    );
    eventually("no zombie", || guest.children().is_empty());
}

#[test]
fn chain_shares_input_and_time_out() {
    let guest = Guest::plain();
    let chain = vec![command(&["cat"]).argv];
    let mut stream =
        guest.send(&Request::Exec(Command { stdin: true, chain, ..command(&["head", "-c", "0"]) }));
    stream.write_all(&Input::Data(b"for the second".to_vec()).to_frame()).unwrap();
    stream.write_all(&Input::DataEnd.to_frame()).unwrap();
    assert_eq!(collect(&mut stream).stdout, b"for the second");
    let chain = vec![command(&["sleep", "1000"]).argv, command(&["echo", "never"]).argv];
    let answer =
        guest.ask(&Request::Exec(Command { timeout_ms: 300, chain, ..command(&["echo", "one"]) }));
    assert!(exit(&answer).timed_out);
    assert_eq!(answer.stdout, b"one\n");
}

#[test]
fn staged_files_are_there_when_the_command_starts() {
    let guest = Guest::plain();
    let folder = folder("staged");
    let name = folder.join("script");
    let path = name.as_os_str().as_encoded_bytes().to_vec();
    let content = b"#!/bin/sh\necho staged\n".to_vec();
    let files = vec![StagedFile { path: path.clone(), mode: 0o700, content }];
    let argv = vec![path];
    let answer = guest.ask(&Request::Exec(Command { argv, files, ..Command::default() }));
    assert_eq!(answer.stdout, b"staged\n");
    let files =
        vec![StagedFile { path: b"/no/such/file".to_vec(), mode: 0o600, content: Vec::new() }];
    let refused = guest.ask(&Request::Exec(Command { files, ..command(&["true"]) }));
    assert_eq!(failed(&refused), ("open", "/no/such/file", 2));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn terminal_belongs_to_the_program_and_has_its_size() {
    let guest = Guest::plain();
    let size = WindowSize { rows: 33, columns: 77 };
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && \
        (echo named > /dev/tty) && read line && echo got $line; \
        trap 'echo resized; stty size' WINCH; echo ready; read more; exec tr a-z A-Z";
    let mut stream = guest
        .send(&Request::Exec(Command { terminal: Some(size), ..command(&["sh", "-c", script]) }));
    let mut output = String::new();
    let mut until = |stream: &mut UnixStream, wanted: &str| {
        while !output.contains(wanted) {
            match read_frame::<Reply>(stream).expect("more output") {
                Reply::Stdout(bytes) => output.push_str(&String::from_utf8(bytes).unwrap()),
                Reply::Started { .. } => {}
                other => panic!("{other:?} before {wanted:?} in {output:?}"),
            }
        }
        output.clone()
    };
    let begin = until(&mut stream, "named\r\n");
    assert!(begin.starts_with("33 77\r\nxterm\r\nnamed\r\n"), "{begin:?}");
    stream.write_all(&Input::Data(b"typed\r".to_vec()).to_frame()).unwrap();
    until(&mut stream, "got typed\r\n");
    until(&mut stream, "ready\r\n");
    stream.write_all(&Input::Resize(WindowSize { rows: 5, columns: 6 }).to_frame()).unwrap();
    until(&mut stream, "resized\r\n5 6\r\n");
    // A shell that still carries out its trap would keep the interrupt to itself.
    stream.write_all(&Input::Data(b"on\rlast\r".to_vec()).to_frame()).unwrap();
    until(&mut stream, "LAST\r\n");
    stream.write_all(&Input::Data(vec![3]).to_frame()).unwrap();
    assert_eq!(exit(&collect(&mut stream)).status, ExitStatus::Signal(2));
}

#[test]
fn terminal_carries_a_chain_and_loses_no_output() {
    let guest = Guest::plain();
    let size = WindowSize { rows: 1, columns: 2 };
    for _ in 0..20 {
        let chain =
            vec![command(&["sh", "-c", "stty size; head -c 20000 /dev/zero | tr '\\0' x"]).argv];
        let request = Command { terminal: Some(size), chain, ..command(&["echo", "one"]) };
        let answer = guest.ask(&Request::Exec(request));
        assert_eq!(exit(&answer).status, ExitStatus::Code(0));
        assert!(answer.stdout.starts_with(b"one\r\n1 2\r\n"), "{:?}", &answer.stdout[..20]);
        assert_eq!(answer.stdout.len(), 20_000 + 5 + 5);
    }
    let mut stream =
        guest.send(&Request::Exec(Command { terminal: Some(size), ..command(&["cat"]) }));
    stream.write_all(&Input::DataEnd.to_frame()).unwrap();
    assert_eq!(exit(&collect(&mut stream)).status, ExitStatus::Code(0));
    let before = guest.descriptors();
    guest.ask(&Request::Exec(Command { terminal: Some(size), ..command(&["true"]) }));
    eventually("closed descriptors", || guest.descriptors() == before);
}

/// A fresh folder for a test.
fn folder(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("sm-init-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The bytes of a path.
fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

/// Sends a request with its data, and gives the final reply.
fn give(guest: &Guest, request: &Request, data: &[u8]) -> Answer {
    let mut stream = guest.send(request);
    for piece in data.chunks(50_000) {
        if stream.write_all(&Input::Data(piece.to_vec()).to_frame()).is_err() {
            break;
        }
    }
    let _ = stream.write_all(&Input::DataEnd.to_frame());
    collect(&mut stream)
}

/// Asks for data, and gives it with the final reply.
fn take(guest: &Guest, request: &Request) -> (Vec<u8>, Reply) {
    let (mut stream, mut data) = (guest.send(request), Vec::new());
    loop {
        match read_frame::<Reply>(&mut stream).unwrap() {
            Reply::Data(bytes) => data.extend(bytes),
            last => return (data, last),
        }
    }
}

#[test]
fn file_is_written_appended_to_and_read() {
    use std::os::unix::fs::PermissionsExt;
    let guest = Guest::plain();
    let folder = folder("file");
    let name = folder.join("x");
    let file = WriteFile { path: bytes(&name), ..WriteFile::default() };
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    assert_eq!(give(&guest, &Request::WriteFile(file.clone()), &data).last, Reply::Done);
    assert!(std::fs::read(&name).unwrap() == data);
    assert_eq!(name.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
    let append = WriteFile { append: true, mode: Some(0o4710), ..file.clone() };
    assert_eq!(give(&guest, &Request::WriteFile(append), b"end").last, Reply::Done);
    let (read, last) = take(&guest, &Request::ReadFile { path: bytes(&name) });
    assert_eq!((read.len(), last), (3_000_003, Reply::Done));
    assert!(read.ends_with(b"end") && read[..3_000_000] == data);
    assert_eq!(name.metadata().unwrap().permissions().mode() & 0o7777, 0o4710);
    assert_eq!(give(&guest, &Request::WriteFile(file), b"").last, Reply::Done);
    assert_eq!(std::fs::read(&name).unwrap(), b"");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn special_file_is_refused_at_once() {
    let guest = Guest::plain();
    let folder = folder("kinds");
    let fifo = folder.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let read = |path: &Path| take(&guest, &Request::ReadFile { path: bytes(path) }).1;
    let errno = |reply: Reply| match reply {
        Reply::Failed(failure) => (failure.operation, failure.errno),
        other => panic!("{other:?}"),
    };
    assert_eq!(errno(read(&folder)), ("open".into(), 21));
    assert_eq!(errno(read(&fifo)), ("open".into(), 95));
    assert_eq!(errno(read(Path::new("/dev/zero"))), ("open".into(), 95));
    assert_eq!(errno(read(&folder.join("none"))), ("open".into(), 2));
    let write = |path: &Path| {
        let file = WriteFile { path: bytes(path), ..WriteFile::default() };
        errno(give(&guest, &Request::WriteFile(file), b"x").last)
    };
    assert_eq!(write(&fifo), ("open".into(), 6));
    assert_eq!(write(&folder), ("open".into(), 21));
    assert_eq!(write(&folder.join("none/x")), ("open".into(), 2));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn failed_write_reports_its_errno_while_data_arrives() {
    let guest = Guest::plain();
    let file = WriteFile { path: b"/proc/self/oom_score_adj".to_vec(), ..WriteFile::default() };
    let answer = give(&guest, &Request::WriteFile(file), &vec![b'x'; 10 << 20]);
    assert_eq!(failed(&answer), ("write", "/proc/self/oom_score_adj", 22));
    assert_eq!(guest.run(&["echo", "well"]).stdout, b"well\n");
}

#[test]
fn memory_is_reported() {
    let guest = Guest::plain();
    let Reply::Memory(Memory { total_kib, available_kib }) = guest.ask(&Request::Memory).last
    else {
        panic!("no memory")
    };
    assert!(0 < available_kib && available_kib < total_kib);
}

/// Runs a program that must succeed, and gives what it printed.
fn tool(argv: &[&str], folder: &Path) -> String {
    let output =
        std::process::Command::new(argv[0]).args(&argv[1..]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a tree holds: names, kinds, modes, owners, times, sizes, links, contents.
fn listing(folder: &Path) -> String {
    let list = "find . -printf '%P %y %m %U:%G %n %T@ %l\\n' | sort; \
        find . -type f -print0 | sort -z | xargs -0 sha256sum";
    tool(&["sh", "-c", list], folder)
}

fn plant(folder: &Path) {
    let long = "l".repeat(120);
    let script = format!(
        "mkdir -p a/b empty d/{long}; echo hello > a/file; head -c 1000000 /dev/urandom > a/b/big
        : > a/none; chmod 4751 a/file; chmod 1777 empty; ln -s file a/link; ln a/file a/b/hard
        ln -s {long}{long} d/far; echo deep > d/{long}/$(printf '%0200d' 7); mkfifo a/fifo
        touch -d '1969-12-31 23:00:00 UTC' a/none; touch -d @9999999999 a/file; touch -hd @5 a/link
        touch -d @77 a/b; chmod 500 a/b; chown 12:34 a/none 2>/dev/null || true"
    );
    tool(&["sh", "-ec", &script], folder);
}

/// Needs the packages `tar` and `findutils`.
#[test]
fn archive_made_by_tar_unpacks_as_with_tar() {
    let guest = Guest::plain();
    let folder = folder("unpack");
    let source = folder.join("source");
    std::fs::create_dir(&source).unwrap();
    plant(&source);
    for format in ["gnu", "pax", "posix", "ustar"] {
        let (ours, theirs) =
            (folder.join(format!("ours-{format}")), folder.join(format!("theirs-{format}")));
        let archive = folder.join("archive");
        let pack = format!("tar --format={format} -cf ../archive . || test {format} = ustar");
        tool(&["sh", "-c", &pack], &source);
        std::fs::create_dir(&theirs).unwrap();
        tool(&["tar", "-xpf", archive.to_str().unwrap()], &theirs);
        let request = Request::CopyIn { path: bytes(&ours) };
        let answer = give(&guest, &request, &std::fs::read(&archive).unwrap());
        assert_eq!(answer.last, Reply::Done, "{format}");
        assert_eq!(listing(&ours), listing(&theirs), "{format}");
    }
    // Once more over what is there.
    let request = Request::CopyIn { path: bytes(&folder.join("ours-pax")) };
    tool(&["tar", "--format=pax", "-cf", "../archive", "."], &source);
    assert_eq!(
        give(&guest, &request, &std::fs::read(folder.join("archive")).unwrap()).last,
        Reply::Done
    );
    assert_eq!(listing(&folder.join("ours-pax")), listing(&source));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Needs the packages `tar` and `findutils`.
#[test]
fn archive_made_by_the_agent_unpacks_with_tar() {
    let guest = Guest::plain();
    let folder = folder("pack");
    let (source, theirs) = (folder.join("source"), folder.join("theirs"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    plant(&source);
    let (archive, last) = take(&guest, &Request::CopyOut { path: bytes(&source) });
    assert_eq!((archive.len() % 512, last), (0, Reply::Done));
    std::fs::write(folder.join("archive"), &archive).unwrap();
    tool(&["tar", "-xpf", "../archive"], &theirs);
    let whole_seconds = |list: String| -> String {
        let cut = |word: &str| match word.split_once('.') {
            Some((seconds, digits)) if digits.len() == 10 => seconds.to_owned(),
            _ => word.to_owned(),
        };
        list.split(' ').map(cut).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(whole_seconds(listing(&theirs)), whole_seconds(listing(&source)));
    // One file by itself.
    let (archive, _) = take(&guest, &Request::CopyOut { path: bytes(&source.join("a/file")) });
    std::fs::write(folder.join("archive"), &archive).unwrap();
    assert_eq!(tool(&["tar", "-tf", "archive"], &folder), "file\n");
    let (_, last) = take(&guest, &Request::CopyOut { path: b"/no/such".to_vec() });
    assert!(matches!(last, Reply::Failed(failure) if failure.errno == 2));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Needs the package `tar`.
#[test]
fn malformed_archives_are_refused() {
    let guest = Guest::plain();
    let folder = folder("lies");
    let target = folder.join("target");
    let unpack = |archive: &[u8]| {
        let request = Request::CopyIn { path: bytes(&target) };
        match give(&guest, &request, archive).last {
            Reply::Failed(failure) => (failure.subject, failure.errno),
            other => panic!("{other:?}"),
        }
    };
    std::fs::write(folder.join("x"), b"content").unwrap();
    let tar = |options: &[&str]| {
        tool(&[&["tar", "-cf", "archive"], options].concat(), &folder);
        std::fs::read(folder.join("archive")).unwrap()
    };
    let escape = tar(&["--transform=s,x,../y,", "-P", "x"]);
    assert_eq!(unpack(&escape), ("../y".into(), 22));
    assert!(!folder.join("y").exists());
    let good = tar(&["x"]);
    for at in [0, 124, 150, 156, 257] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(unpack(&bad), ("header in the archive".into(), 74), "byte {at}");
    }
    for length in [1, 511, 512, 515, 1023] {
        assert_eq!(unpack(&good[..length]), ("end in the archive".into(), 74), "{length} bytes");
    }
    let absolute = tar(&["-P", "--transform=s,^,/abs/,", "x"]);
    let request = Request::CopyIn { path: bytes(&target) };
    assert_eq!(give(&guest, &request, &absolute).last, Reply::Done);
    assert_eq!(std::fs::read(target.join("abs/x")).unwrap(), b"content");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn malformed_frame_closes_only_its_own_stream() {
    let guest = Guest::plain();
    let mut good = guest.send(&Request::Exec(command(&["sh", "-c", "sleep 0.3; echo good"])));
    for bytes in
        [&[0xFF; 64][..], &[0, 0, 0, 0, 0x99, 0, 0, 0], &[4, 0, 0, 0, 0x23, 0, 0, 0, 9, 9, 9, 9]]
    {
        let mut bad = UnixStream::connect(&guest.socket).unwrap();
        bad.set_read_timeout(Some(TIMEOUT)).unwrap();
        bad.write_all(bytes).unwrap();
        assert!(matches!(bad.read(&mut [0; 64]), Ok(0) | Err(_)));
    }
    assert_eq!(collect(&mut good).stdout, b"good\n");
}

#[test]
fn request_may_arrive_in_pieces() {
    let guest = Guest::plain();
    let mut stream = UnixStream::connect(&guest.socket).unwrap();
    let argument = "x".repeat(100_000);
    let frame = Request::Exec(command(&["echo", &argument])).to_frame();
    for piece in frame.chunks(9_999) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(collect(&mut stream).stdout.len(), argument.len() + 1);
}

#[test]
fn listening_reports_an_open_port() {
    let guest = Guest::plain();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let Reply::Ports(ports) = guest.ask(&Request::Listening).last else { panic!("no ports") };
    assert!(ports.contains(&port) && ports.is_sorted());
}

#[test]
fn entrypoint_output_and_exit_are_reported() {
    let guest = Guest::new(|control, listener| {
        serve(
            control,
            listener,
            &[
                "sh",
                "-c",
                "echo first; trap 'echo bye >&2; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
            ],
        );
    });
    assert_eq!(failed(&guest.ask(&Request::Logs { follow: true })), ("wait", "entrypoint", 3));
    let mut started = guest.send(&Request::Start);
    assert!(matches!(read_frame(&mut started), Some(Reply::Started { .. })));
    assert_eq!(failed(&guest.ask(&Request::Start)), ("start", "entrypoint", 114));
    let mut follower = guest.send(&Request::Logs { follow: true });
    eventually("ready", || {
        let answer = guest.ask(&Request::Logs { follow: false });
        assert_eq!(answer.last, Reply::Done);
        answer.stdout == b"first\nready\n"
    });
    assert_eq!(guest.ask(&Request::SignalEntrypoint { signal: 15 }).last, Reply::Done);
    let answer = collect(&mut follower);
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice()),
        (&b"first\nready\n"[..], &b"bye\n"[..])
    );
    assert_eq!(exit(&answer).status, ExitStatus::Code(5));
    let end = guest.ask(&Request::WaitEntrypoint);
    assert_eq!((end.stdout.len(), exit(&end).status), (0, ExitStatus::Code(5)));
    let later = guest.ask(&Request::Logs { follow: false });
    assert_eq!((&later.stdout, exit(&later).status), (&answer.stdout, ExitStatus::Code(5)));
    let dead = guest.ask(&Request::SignalEntrypoint { signal: 15 });
    assert_eq!(failed(&dead), ("kill", "entrypoint", 3));
}

#[test]
fn missing_entrypoint_is_reported() {
    let guest = Guest::new(|control, listener| {
        serve(control, listener, &["/no/such/entrypoint"]);
    });
    assert_eq!(failed(&guest.ask(&Request::Start)), ("execve", "/no/such/entrypoint", 2));
}

#[test]
fn command_without_a_container_is_refused() {
    let guest = Guest::new(|control, listener| {
        Server::new(control, listener, Groups::default()).unwrap().run().unwrap()
    });
    assert_eq!(failed(&guest.run(&["true"])), ("find", "container", 2));
    assert_eq!(failed(&guest.ask(&Request::Start)), ("find", "container", 2));
}

/// A resume that fails: no clock can be set to its time, so the host's own stays as it is.
fn failing_resume() -> Resume {
    let (realtime_ns, entropy) = (u64::MAX, [7; ENTROPY_SIZE]);
    Resume {
        realtime_ns,
        entropy,
        hostname: None,
        network: None,
        shares: Vec::new(),
        volumes: Vec::new(),
    }
}

#[test]
fn resume_precedes_later_requests() {
    let mut guest = Guest::plain();
    let resume = failing_resume();
    for _ in 0..50 {
        let frame = Control::Resume(resume.clone()).to_frame();
        guest.control.write_all(&frame).unwrap();
        guest.run(&["true"]);
        guest.control.set_nonblocking(true).unwrap();
        let Some(Event::ResumeFailed(failure)) = read_frame(&mut guest.control) else {
            panic!("the answer to the command overtook the resume");
        };
        guest.control.set_nonblocking(false).unwrap();
        assert_eq!(failure.operation.as_str(), "clock_settime");
    }
}

/// Serves with a running entrypoint, and runs hooks first, as after a restore.
fn serve_hooks(control: Fd, listener: Fd, script: &str, after_restore: AfterRestore) {
    let mut server = Server::new(control, listener, Groups::default()).unwrap();
    let argv = ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec()).into();
    let entrypoint = Process { argv, ..Process::default() };
    let description = Description { entrypoint, after_restore, ..Description::default() };
    server.set_container(Container::new(description));
    server.start(false).unwrap();
    wait_for_output(server.entrypoint.as_mut().unwrap());
    server.start_hooks().unwrap();
    server.run().unwrap();
}

/// Waits for the entrypoint's first output: its traps are set.
fn wait_for_output(entrypoint: &mut Entrypoint) {
    let mut scratch = [0; 64];
    while !entrypoint.pump(log::Stream::Out, &mut scratch) {
        std::thread::yield_now();
    }
}

fn run_after_restore(script: &str, timeout_ms: u64) -> AfterRestore {
    let argv = ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec());
    AfterRestore { action: Some(Action::Exec(argv.into())), timeout_ms }
}

fn hook_failure(answer: &Answer) -> String {
    match &answer.last {
        Reply::Failed(failure) if failure.operation.as_str() == "after-restore" => {
            failure.subject.clone()
        }
        other => panic!("expected a failed hook, not {other:?}"),
    }
}

#[test]
fn requests_wait_for_the_hook() {
    let mut guest = Guest::new(|control, listener| {
        let script = "sleep 0.3; echo seeded; : > /tmp/supermachine-hook-$PPID";
        serve_hooks(
            control,
            listener,
            "echo up; exec sleep 100",
            run_after_restore(script, 60_000),
        );
    });
    let mark = format!("/tmp/supermachine-hook-{}", guest.pid);
    let streams: Vec<_> =
        (0..4).map(|_| guest.send(&Request::Exec(command(&["/bin/ls", &mark])))).collect();
    for mut stream in streams {
        let answer = collect(&mut stream);
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), mark);
        assert_eq!(exit(&answer).status, ExitStatus::Code(0));
    }
    assert_eq!(read_frame::<Event>(&mut guest.control), Some(Event::Resumed));
    std::fs::remove_file(mark).unwrap();
}

#[test]
fn failed_hook_is_reported_to_every_request() {
    let mut guest = Guest::new(|control, listener| {
        let script = "echo no key; echo at all >&2; exit 3";
        serve_hooks(
            control,
            listener,
            "echo up; exec sleep 100",
            run_after_restore(script, 60_000),
        );
    });
    let expected = "/bin/sh exited with status 3; it wrote: no key\nat all";
    assert_eq!(hook_failure(&guest.run(&["true"])), expected);
    assert_eq!(hook_failure(&guest.ask(&Request::Memory)), expected);
    assert_eq!(hook_failure(&guest.ask(&Request::Connect { port: 1, framed: true })), expected);
    let Some(Event::ResumeFailed(failure)) = read_frame(&mut guest.control) else {
        panic!("the control stream reports the failure");
    };
    assert_eq!(failure.subject, expected);
}

#[test]
fn hook_that_takes_too_long_is_killed() {
    let guest = Guest::new(|control, listener| {
        let script = "echo begun; exec sleep 100";
        serve_hooks(control, listener, "echo up; exec sleep 100", run_after_restore(script, 300));
    });
    let began = Instant::now();
    let expected = "/bin/sh took longer than 300 ms; it wrote: begun";
    assert_eq!(hook_failure(&guest.run(&["true"])), expected);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn missing_hook_is_reported() {
    let guest = Guest::new(|control, listener| {
        let action = Some(Action::Exec(vec![b"/no/such/hook".to_vec()]));
        let after_restore = AfterRestore { action, timeout_ms: 1000 };
        serve_hooks(control, listener, "echo up; exec sleep 100", after_restore);
    });
    let text = hook_failure(&guest.run(&["true"]));
    assert!(text.starts_with("/no/such/hook: execve"), "{text}");
}

#[test]
fn signal_of_a_hook_reaches_the_entrypoint() {
    let guest = Guest::new(|control, listener| {
        let script = "trap 'echo told' HUP; echo up; while :; do sleep 0.05; done";
        let after_restore = AfterRestore { action: Some(Action::Signal(1)), timeout_ms: 1000 };
        serve_hooks(control, listener, script, after_restore);
    });
    eventually("told", || guest.ask(&Request::Logs { follow: false }).stdout == b"up\ntold\n");
}

#[test]
fn restart_runs_the_entrypoint_anew_and_keeps_its_log() {
    let guest = Guest::new(|control, listener| {
        let script = "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.05; done";
        let action = Some(Action::Restart { signal: 15 });
        let after_restore = AfterRestore { action, timeout_ms: 20_000 };
        serve_hooks(control, listener, script, after_restore);
    });
    eventually("restarted", || {
        guest.ask(&Request::Logs { follow: false }).stdout == b"up\nbye\nup\n"
    });
}

#[test]
fn executables_of_a_folder_come_in_the_order_of_their_names() {
    use std::os::unix::fs::PermissionsExt;
    let folder = std::env::temp_dir().join(format!("supermachine-hooks-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("20-folder")).unwrap();
    for (name, mode) in [("30-c", 0o755), ("10-a", 0o700), ("40-text", 0o644), (".hidden", 0o755)] {
        let file = folder.join(name);
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("/bin/sh", folder.join("15-link")).unwrap();
    let folder = folder.to_str().unwrap();
    let found = hooks::executables(folder.as_bytes()).unwrap();
    let expected = ["10-a", "15-link", "30-c"].map(|name| format!("{folder}/{name}").into_bytes());
    assert_eq!(found, expected);
    assert!(hooks::executables(b"/no/such/folder").unwrap().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}
