//! The whole server, in a process of its own, over Unix sockets instead of vsock.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use supermachine_formats::wire::{
    Command, Container as Description, Control, ENTROPY_SIZE, Event, Exit, ExitStatus, Header,
    Input, Message, Process, Reply, Request, Resume, VERSION,
};

use super::*;
use crate::sys::process::testing::{fork_server, join};

const PATIENCE: Duration = Duration::from_secs(60);

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
        control.set_read_timeout(Some(PATIENCE)).unwrap();
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let mut server = Server::new(control, listener).unwrap();
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
        Reply::Failed(failure) => (&failure.operation, &failure.subject, failure.errno),
        other => panic!("expected a failure, not {other:?}"),
    }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::yield_now();
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

#[test]
fn a_command_answers_with_output_and_exit() {
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
fn a_quick_command_is_answered_in_one_piece() {
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
fn a_long_command_is_started_before_it_ends() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sleep", "1000"])));
    let Some(Reply::Started { pid }) = read_frame(&mut stream) else { panic!("not started") };
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn input_reaches_the_program_and_its_end_too() {
    let guest = Guest::plain();
    let request = Request::Exec(Command { stdin: true, ..command(&["cat"]) });
    let mut stream = guest.send(&request);
    stream.write_all(&Input::Stdin(b"over and ".to_vec()).to_frame()).unwrap();
    stream.write_all(&Input::Stdin(b"back".to_vec()).to_frame()).unwrap();
    stream.write_all(&Input::StdinEnd.to_frame()).unwrap();
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
    let mut writer = stream.try_clone().unwrap();
    let sent = data.clone();
    let thread = std::thread::spawn(move || {
        for piece in sent.chunks(60_000) {
            writer.write_all(&Input::Stdin(piece.to_vec()).to_frame()).unwrap();
        }
        writer.write_all(&Input::StdinEnd.to_frame()).unwrap();
    });
    let answer = collect(&mut stream);
    thread.join().unwrap();
    assert!(answer.stdout == data);
}

#[test]
fn a_host_that_does_not_read_stops_the_program() {
    let guest = Guest::plain();
    let mut stream =
        guest.send(&Request::Exec(command(&["sh", "-c", "head -c 10485760 /dev/zero"])));
    let Some(Reply::Started { pid }) = read_frame(&mut stream) else { panic!("not started") };
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/statm", guest.pid)).unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(300));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the program waits");
    assert!(memory() < 4096, "the agent holds less than 16 MiB");
    assert_eq!(collect(&mut stream).stdout.len(), 10 << 20);
}

#[test]
fn a_time_out_kills_the_whole_group_and_keeps_the_output() {
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
fn a_signal_reaches_the_program() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sleep", "1000"])));
    stream.write_all(&Input::Signal(15).to_frame()).unwrap();
    assert_eq!(exit(&collect(&mut stream)).status, ExitStatus::Signal(15));
}

#[test]
fn a_closed_stream_kills_its_program() {
    let guest = Guest::plain();
    let mut stream = guest.send(&Request::Exec(command(&["sh", "-c", "sleep 1000; true"])));
    let Some(Reply::Started { .. }) = read_frame(&mut stream) else { panic!("not started") };
    assert!(!guest.children().is_empty());
    drop(stream);
    eventually("an empty process tree", || guest.children().is_empty());
}

#[test]
fn a_process_left_behind_does_not_hold_the_exit_back() {
    let guest = Guest::plain();
    let answer = guest.run(&["sh", "-c", "(sleep 1000; true) & echo $!"]);
    assert_eq!(exit(&answer).status, ExitStatus::Code(0));
    let pid: u32 = String::from_utf8(answer.stdout).unwrap().trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
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
fn what_cannot_be_run_is_told_by_step_and_number() {
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
fn a_program_starts_clean() {
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
fn a_malformed_frame_ends_only_its_own_stream() {
    let guest = Guest::plain();
    let mut good = guest.send(&Request::Exec(command(&["sh", "-c", "sleep 0.3; echo good"])));
    for bytes in
        [&[0xFF; 64][..], &[0, 0, 0, 0, 0x99, 0, 0, 0], &[4, 0, 0, 0, 0x23, 0, 0, 0, 9, 9, 9, 9]]
    {
        let mut bad = UnixStream::connect(&guest.socket).unwrap();
        bad.set_read_timeout(Some(PATIENCE)).unwrap();
        bad.write_all(bytes).unwrap();
        assert!(matches!(bad.read(&mut [0; 64]), Ok(0) | Err(_)));
    }
    assert_eq!(collect(&mut good).stdout, b"good\n");
}

#[test]
fn a_request_may_come_in_pieces() {
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
fn listening_names_a_port_that_is_listened_on() {
    let guest = Guest::plain();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let Reply::Ports(ports) = guest.ask(&Request::Listening).last else { panic!("no ports") };
    assert!(ports.contains(&port) && ports.is_sorted());
}

#[test]
fn the_entrypoints_output_and_end_are_told() {
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
    assert_eq!(failed(&guest.ask(&Request::Logs { follow: true })), ("logs", "entrypoint", 3));
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
    let later = guest.ask(&Request::Logs { follow: false });
    assert_eq!((&later.stdout, exit(&later).status), (&answer.stdout, ExitStatus::Code(5)));
    let dead = guest.ask(&Request::SignalEntrypoint { signal: 15 });
    assert_eq!(failed(&dead), ("kill", "entrypoint", 3));
}

#[test]
fn an_entrypoint_that_does_not_exist_is_told() {
    let guest = Guest::new(|control, listener| {
        serve(control, listener, &["/no/such/entrypoint"]);
    });
    assert_eq!(failed(&guest.ask(&Request::Start)), ("execve", "/no/such/entrypoint", 2));
}

#[test]
fn without_a_container_nothing_runs() {
    let guest =
        Guest::new(|control, listener| Server::new(control, listener).unwrap().run().unwrap());
    assert_eq!(failed(&guest.run(&["true"])), ("find", "container", 2));
    assert_eq!(failed(&guest.ask(&Request::Start)), ("find", "container", 2));
}

#[test]
fn a_resume_is_carried_out_before_a_request_that_comes_after_it() {
    let mut guest = Guest::plain();
    // No clock can be set to this time, so that the host's own stays as it is.
    let resume = Resume { realtime_ns: u64::MAX, entropy: [7; ENTROPY_SIZE], hostname: None };
    for _ in 0..50 {
        let frame = Control::Resume(resume.clone()).to_frame();
        guest.control.write_all(&frame).unwrap();
        guest.run(&["true"]);
        guest.control.set_nonblocking(true).unwrap();
        let Some(Event::ResumeFailed(failure)) = read_frame(&mut guest.control) else {
            panic!("the answer to the command overtook the resume");
        };
        guest.control.set_nonblocking(false).unwrap();
        assert_eq!(failure.operation, "clock_settime");
    }
}
