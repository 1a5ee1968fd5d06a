//! Client and server against a guest that the test plays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use supermachine_formats::Digest;
use supermachine_formats::wire::{
    self, Exit, HEADER_SIZE, Header, Input, MAX_CHUNK, Message, Reply, Request,
};
use tempfile::TempDir;

use super::message::{Answer, Ask, Order, Taken, VERSION};
use super::program::hold;
use super::server::Guest;
use super::*;
use crate::agent::{End, Line, Witness, read_message};
use supermachine_test_support::mutate;

use crate::{Error, Way};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a test knows of its guest.
#[derive(Debug, Default)]
struct Facts {
    failure: Mutex<Option<GuestFailure>>,
    dropped: Mutex<bool>,
    paused: AtomicBool,
    /// Met when a slow snapshot begins, and again before it ends.
    lasts: TwoMeet,
}

#[derive(Debug)]
struct TwoMeet(Barrier);

impl Default for TwoMeet {
    fn default() -> Self {
        Self(Barrier::new(2))
    }
}

impl TwoMeet {
    fn wait(&self) {
        self.0.wait();
    }
}

/// A guest whose side of each stream comes out of a channel.
#[derive(Debug)]
struct Fake {
    streams: Mutex<Sender<UnixStream>>,
    facts: Arc<Facts>,
}

impl Guest for Fake {
    fn dial(&self, frames: &[u8]) -> Result<Line, Error> {
        let (mut stream, guest) = UnixStream::pair().unwrap();
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(frames).unwrap();
        self.streams.lock().unwrap().send(guest).unwrap();
        Ok(Line { stream, witness: Witness::of_stopped() })
    }

    fn look(&self) -> Option<End> {
        let failure = self.facts.failure.lock().unwrap().clone()?;
        Some(End::Guest { failure, console: "the last words".into() })
    }

    fn console(&self) -> Vec<u8> {
        b"Linux version\n".to_vec()
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        Ok((Duration::from_millis(7), 9))
    }

    fn snapshot(&self, name: &str) -> Result<Taken, Error> {
        if name == "slow" {
            self.facts.lasts.wait();
            self.facts.lasts.wait();
        }
        Err(Error::InvalidName { name: name.to_owned() })
    }

    fn pause(&self) -> Result<(), Error> {
        self.facts.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        self.facts.paused.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        *self.facts.dropped.lock().unwrap() = true;
    }
}

/// A server on a thread of its own, with a guest.
struct Stage {
    dir: TempDir,
    facts: Arc<Facts>,
    streams: Receiver<UnixStream>,
    /// The stream that tells of the entrypoint.
    entrypoint: UnixStream,
    server: Option<JoinHandle<Result<Stopped, Error>>>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(dir.path().join("socket")).unwrap();
        let (sender, streams) = channel();
        let facts = Arc::new(Facts::default());
        let fake = Fake { streams: Mutex::new(sender), facts: Arc::clone(&facts) };
        let serve = move || server.serve_guest(Box::new(fake), "a label".into());
        let server = Some(thread::spawn(serve));
        let mut entrypoint = streams.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            read_message::<Request>(&mut entrypoint, None).unwrap(),
            Request::WaitEntrypoint
        );
        Self { dir, facts, streams, entrypoint, server }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn client(&self) -> Client {
        Client::connect(self.path()).unwrap()
    }

    /// Plays the agent for so many commands: `yes` writes 4 MiB, `cat` gives its input back.
    fn serve_commands(&self, count: usize) -> Vec<JoinHandle<()>> {
        let next = |_| {
            let stream = self.streams.recv_timeout(PATIENCE).unwrap();
            thread::spawn(move || play(stream))
        };
        (0..count).map(next).collect()
    }

    fn stop(&mut self) -> Stopped {
        self.server.take().unwrap().join().unwrap().unwrap()
    }
}

fn play(mut stream: UnixStream) {
    let Request::Exec(command) = read_message(&mut stream, None).unwrap() else {
        panic!("no command");
    };
    stream.write_all(&Reply::Started { pid: 7 }.to_frame()).unwrap();
    match command.argv.first().unwrap().as_slice() {
        b"yes" => {
            let piece = Reply::Stdout(vec![b'y'; MAX_CHUNK]).to_frame();
            (0..64).for_each(|_| stream.write_all(&piece).unwrap());
        }
        b"cat" => {
            while let Input::Data(bytes) = read_message(&mut &stream, None).unwrap() {
                stream.write_all(&Reply::Stdout(bytes).to_frame()).unwrap();
            }
        }
        other => panic!("{other:?}"),
    }
    let status = wire::ExitStatus::Code(3);
    let exit = Exit { status, timed_out: false, duration_us: 1, peak_rss_kib: 2 };
    stream.write_all(&Reply::Exited(exit).to_frame()).unwrap();
}

#[test]
fn commands_run_through_the_border_with_output_input_and_status() {
    let stage = Stage::new();
    let vm = stage.client().vm();
    thread::scope(|scope| {
        let vm = &vm;
        for _ in 0..4 {
            scope.spawn(move || {
                let outcome = vm.exec(["yes"]).unwrap();
                assert_eq!(outcome.stdout.len(), 64 * MAX_CHUNK);
                assert_eq!(outcome.status.code(), Some(3));
            });
        }
        let players = stage.serve_commands(4);
        players.into_iter().for_each(|player| player.join().unwrap());
    });
    let over = vec![7; 200_000];
    thread::scope(|scope| {
        let outcome = scope.spawn(|| vm.exec_builder().argv(["cat"]).stdin(&*over).output());
        stage.serve_commands(1).into_iter().for_each(|player| player.join().unwrap());
        assert_eq!(outcome.join().unwrap().unwrap().stdout, over);
    });
}

#[test]
fn ports_are_reached_through_the_border() {
    let stage = Stage::new();
    let vm = stage.client().vm();
    let forward = vm.expose_tcp(0, 80).unwrap();
    let mut client = TcpStream::connect(forward.local_addr()).unwrap();
    let mut agent = stage.streams.recv_timeout(PATIENCE).unwrap();
    let request: Request = read_message(&mut agent, None).unwrap();
    assert_eq!(request, Request::Connect { port: 80, framed: true });
    agent.write_all(&Reply::Connected.to_frame()).unwrap();
    agent.write_all(b"hello").unwrap();
    let mut text = [0; 5];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    drop(vm);
    // The forward was the handle's; the machine is not.
    assert_eq!(client.read(&mut text).unwrap_or(0), 0);
    assert_eq!(stage.client().status().unwrap().state, State::Running);
}

#[test]
fn status_tells_the_label_and_how_the_entrypoint_ended() {
    let mut stage = Stage::new();
    let client = stage.client();
    let status = client.status().unwrap();
    assert_eq!((status.label.as_str(), status.state), ("a label", State::Running));
    assert_eq!(client.pid(), std::process::id());
    let exit = wire::ExitStatus::Signal(9);
    let exit = Exit { status: exit, timed_out: false, duration_us: 1, peak_rss_kib: 2 };
    stage.entrypoint.write_all(&Reply::Exited(exit).to_frame()).unwrap();
    for client in [client, stage.client()] {
        let state = client.status().unwrap().state;
        assert!(
            matches!(state, State::Ended { status } if status.signal() == Some(9)),
            "{state:?}"
        );
    }
    let (cpu_time, exits) = stage.client().usage().unwrap();
    assert_eq!((cpu_time, exits), (Duration::from_millis(7), 9));
    assert_eq!(stage.client().vm().console(), b"Linux version\n");
}

#[test]
fn guest_that_ends_is_told_to_whoever_waits_and_asks() {
    let mut stage = Stage::new();
    let client = stage.client();
    let waiting = thread::spawn({
        let vm = client.vm();
        move || vm.exec(["cat"])
    });
    let mut agent = stage.streams.recv_timeout(PATIENCE).unwrap();
    read_message::<Request>(&mut agent, None).unwrap();
    *stage.facts.failure.lock().unwrap() = Some(GuestFailure::Shutdown);
    drop(agent);
    let error = waiting.join().unwrap().unwrap_err();
    let Error::Guest { failure: GuestFailure::Shutdown, console } = error else {
        panic!("{error:?}");
    };
    assert_eq!(console, "the last words");
    let state = client.status().unwrap().state;
    assert!(matches!(state, State::Failed { failure: GuestFailure::Shutdown, .. }), "{state:?}");
    let stopping = thread::spawn(move || client.stop());
    drop(stage.stop());
    let stopped = stopping.join().unwrap();
    assert!(matches!(stopped, Err(Error::Guest { .. })), "{stopped:?}");
}

#[test]
fn stop_ends_the_machine_then_the_others_and_is_answered_last() {
    let mut stage = Stage::new();
    let (other, path) = (stage.client(), stage.path());
    let stopping = thread::spawn({
        let client = stage.client();
        move || client.stop()
    });
    let stopped = stage.stop();
    assert!(*stage.facts.dropped.lock().unwrap());
    assert!(!path.exists());
    assert!(matches!(other.status(), Err(Error::WorkerGone)));
    assert!(matches!(other.vm().exec(["cat"]), Err(Error::WorkerGone)));
    assert!(!stopping.is_finished());
    drop(stopped);
    stopping.join().unwrap().unwrap();
    let error = Client::connect(&path).unwrap_err();
    assert!(matches!(error, Error::Worker { .. }), "{error:?}");
}

#[test]
fn failure_of_a_snapshot_is_told_with_its_reason() {
    let stage = Stage::new();
    let error = stage.client().vm().snapshot("../x").unwrap_err();
    assert!(error.to_string().contains("\"../x\" is not a snapshot name"), "{error}");
}

#[test]
fn machine_is_used_while_a_snapshot_of_it_is_taken() {
    let stage = Stage::new();
    let client = stage.client();
    let taking = thread::spawn({
        let vm = client.vm();
        move || vm.snapshot("slow")
    });
    stage.facts.lasts.wait();
    assert_eq!(client.status().unwrap().state, State::Running);
    let running = thread::spawn({
        let vm = client.vm();
        move || vm.exec_builder().argv(["cat"]).stdin("x").output()
    });
    stage.serve_commands(1).into_iter().for_each(|player| player.join().unwrap());
    assert_eq!(running.join().unwrap().unwrap().stdout, b"x");
    assert!(!taking.is_finished());
    stage.facts.lasts.wait();
    let error = taking.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("\"slow\" is not a snapshot name"), "{error}");
}

#[test]
fn machine_that_nobody_can_reach_any_more_ends() {
    let mut stage = Stage::new();
    let client = stage.client();
    std::fs::remove_file(stage.path()).unwrap();
    thread::sleep(Duration::from_millis(500));
    // Who is connected uses it on.
    assert_eq!(client.status().unwrap().state, State::Running);
    drop(client);
    drop(stage.stop());
    assert!(*stage.facts.dropped.lock().unwrap());
}

#[test]
fn client_too_many_is_told_so_and_the_others_are_served_on() {
    let stage = Stage::new();
    let clients: Vec<_> = (0..256).map(|_| stage.client()).collect();
    let error = Client::connect(stage.path()).unwrap_err();
    let Error::Worker { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.raw_os_error(), Some(libc::EUSERS));
    clients.iter().for_each(|client| drop(client.status().unwrap()));
    drop(clients);
    let end = std::time::Instant::now() + PATIENCE;
    while Client::connect(stage.path()).is_err() {
        assert!(std::time::Instant::now() < end, "no place became free");
    }
}

#[test]
fn socket_file_is_its_owners_alone_and_one_that_is_served_is_kept() {
    let stage = Stage::new();
    let mode = std::fs::metadata(stage.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Server::bind(stage.path()).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    stage.client().status().unwrap();
    let abandoned = stage.dir.path().join("abandoned");
    drop(UnixListener::bind(&abandoned).unwrap());
    Server::bind(&abandoned).unwrap();
}

#[test]
fn socket_file_may_have_a_long_path() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("x".repeat(200));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("socket");
    let server = Server::bind(&path).unwrap();
    let (sender, streams) = channel();
    let fake = Fake { streams: Mutex::new(sender), facts: Arc::default() };
    let server = thread::spawn(move || server.serve_guest(Box::new(fake), String::new()).map(drop));
    Client::connect(&path).unwrap().stop().unwrap();
    server.join().unwrap().unwrap();
    drop(streams);
    assert!(!path.exists());
}

#[test]
fn streams_are_not_handed_to_programs_that_start() {
    let stage = Stage::new();
    let line = stage.client().line(&[]).unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", line.stream.as_raw_fd()));
    let flags = flags.unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    let flags = i32::from_str_radix(flags, 8).unwrap();
    assert_ne!(flags & libc::O_CLOEXEC, 0);
}

#[test]
fn other_version_is_refused_by_either_side() {
    let stage = Stage::new();
    let mut raw = UnixStream::connect(stage.path()).unwrap();
    raw.write_all(&Ask::Hello { version: VERSION + 1 }.to_frame()).unwrap();
    let mut said = Vec::new();
    // It may be closed by now, or is reset by what it was sent and did not read.
    let _ = raw.write_all(&Ask::Status.to_frame());
    let _ = raw.read_to_end(&mut said);
    assert_eq!(said, Answer::Hello { version: VERSION }.to_frame());

    let path = stage.dir.path().join("other");
    let listener = UnixListener::bind(&path).unwrap();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&Answer::Hello { version: 9 }.to_frame()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = Client::connect(&path).unwrap_err();
    assert!(
        matches!(error, Error::WorkerVersion { found: 9, supported: VERSION, pid }
            if pid == std::process::id()),
        "{error:?}"
    );
    other.join().unwrap();
}

#[test]
fn client_that_says_nonsense_harms_nobody() {
    let stage = Stage::new();
    let hello = Ask::Hello { version: VERSION }.to_frame();
    let oversized = [&hello[..], &[0xFF; HEADER_SIZE]].concat();
    let status = Ask::Status.to_frame();
    for bytes in [&status[..], &[0; 3], &oversized, &[&hello[..], &hello[..4]].concat()] {
        let mut raw = UnixStream::connect(stage.path()).unwrap();
        raw.write_all(bytes).unwrap();
        raw.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = raw.read_to_end(&mut Vec::new());
    }
    assert_eq!(stage.client().status().unwrap().state, State::Running);
}

#[test]
fn worker_that_ends_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let worker = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_message::<Ask>(&mut stream, None).unwrap();
        stream.write_all(&Answer::Hello { version: VERSION }.to_frame()).unwrap();
        read_message::<Ask>(&mut stream, None).unwrap();
        stream.write_all(&Answer::Stream.to_frame()[..5]).unwrap();
    });
    let client = Client::connect(&path).unwrap();
    for _ in 0..2 {
        assert!(matches!(client.vm().exec(["cat"]), Err(Error::WorkerGone)));
    }
    worker.join().unwrap();
}

fn answers() -> Vec<Answer> {
    let failures = [
        GuestFailure::Shutdown,
        GuestFailure::Unrunnable { reason: "internal error".into(), code: 7 },
        GuestFailure::PageLost { what: "chunk".into() },
    ];
    let ends = failures.iter().cloned().map(|failure| End::Guest { failure, console: "x".into() });
    let ends: Vec<End> = ends.chain([End::Stopped]).collect();
    let failed = failures.map(|failure| State::Failed { failure, console: "é".into() });
    let code = ExitStatus(wire::ExitStatus::Code(3));
    let signal = ExitStatus(wire::ExitStatus::Signal(9));
    let states = [
        State::Running,
        State::Paused,
        State::Ended { status: code },
        State::Ended { status: signal },
    ];
    let status = |state| Answer::Status { label: "label".into(), state };
    let taken = Taken {
        store: b"/store".to_vec(),
        digest: Digest::of(b"x"),
        stopped: Duration::from_millis(3),
        took: Duration::from_secs(1),
    };
    let mut all = vec![
        Answer::Hello { version: VERSION },
        Answer::Stream,
        Answer::Refused { errno: 16 },
        Answer::Console(b"bytes".to_vec()),
        Answer::Usage { cpu_time: Duration::from_nanos(5), exits: 6 },
        Answer::Snapshotted(taken),
        Answer::Failed { reason: "why".into() },
        Answer::Stopped { before: None },
        Answer::Done,
    ];
    let ways = [Way::Mapped, Way::OnDemand, Way::Expanded];
    all.extend(ways.map(|way| Answer::Started { way }));
    all.extend(states.into_iter().chain(failed).map(status));
    all.push(Answer::Seen(None));
    all.extend(ends.iter().cloned().map(|end| Answer::Seen(Some(end))));
    all.extend(ends.into_iter().map(|end| Answer::Stopped { before: Some(end) }));
    all
}

fn order() -> Order {
    Order {
        pack: "/store".into(),
        digest: Digest::of(b"x"),
        cache: "/cache".into(),
        hostname: Some("guest".into()),
        expands_first: true,
    }
}

fn asks() -> Vec<Ask> {
    let name = "name".to_owned();
    vec![
        Ask::Hello { version: VERSION },
        Ask::Dial,
        Ask::Look,
        Ask::Console,
        Ask::Usage,
        Ask::Status,
        Ask::Snapshot { name },
        Ask::Stop,
        Ask::Pause,
        Ask::Resume,
        Ask::Start(order()),
        Ask::Start(Order { hostname: None, expands_first: false, ..order() }),
    ]
}

/// Reads a frame; tells whether it was accepted.
fn accepts<M: Message + PartialEq + std::fmt::Debug>(frame: &[u8]) -> Option<M> {
    let (header, payload) = frame.split_first_chunk::<HEADER_SIZE>()?;
    let header = Header::decode(*header).ok()?;
    M::decode(header.kind, payload.get(..header.length)?).ok()
}

#[test]
fn messages_come_back_as_they_went_and_no_part_of_one_is_accepted() {
    for answer in answers() {
        let frame = answer.to_frame();
        assert_eq!(accepts(&frame), Some(answer));
        (HEADER_SIZE..frame.len()).for_each(|end| {
            let mut part = frame[..end].to_vec();
            let length = u32::try_from(end - HEADER_SIZE).unwrap();
            part[..4].copy_from_slice(&length.to_le_bytes());
            let is_bytes = part[4] == 0x85;
            assert!(is_bytes || accepts::<Answer>(&part).is_none(), "{part:?}");
        });
    }
    for ask in asks() {
        assert_eq!(accepts(&ask.to_frame()), Some(ask));
    }
    assert_eq!(accepts::<Ask>(&Answer::Stream.to_frame()), None);
}

#[test]
fn messages_stand_mutations() {
    let mut samples: Vec<Vec<u8>> = answers().iter().map(Message::to_frame).collect();
    samples.extend(asks().iter().map(Message::to_frame));
    let run = |bytes: &[u8]| {
        let answer = accepts::<Answer>(bytes);
        if let Some(answer) = &answer {
            assert_eq!(accepts::<Answer>(&answer.to_frame()).as_ref(), Some(answer));
        }
        answer.is_some() || accepts::<Ask>(bytes).is_some()
    };
    mutate::smoke(&samples, run);
}

#[test]
fn text_that_is_too_long_is_cut_between_letters() {
    let long = Answer::Failed { reason: "é".repeat(40_000) };
    let Some(Answer::Failed { reason }) = accepts(&long.to_frame()) else { panic!("refused") };
    assert_eq!(reason, "é".repeat(8192));
}

#[test]
fn only_the_own_user_and_root_are_trusted() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let own = sys::peer(&ours).unwrap();
    assert_eq!(own.pid, std::process::id());
    assert!(sys::is_trusted(own));
    assert!(sys::is_trusted(sys::Peer { uid: 0, ..own }));
    assert!(!sys::is_trusted(sys::Peer { uid: own.uid + 1, ..own }));
}

/// A worker on a thread of its own, whose guest is the test's, and the client's connection to it.
fn worker() -> (UnixStream, Arc<Facts>, Receiver<UnixStream>, JoinHandle<()>) {
    let (sender, streams) = channel();
    let facts = Arc::new(Facts::default());
    let fake = Fake { streams: Mutex::new(sender), facts: Arc::clone(&facts) };
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let start = move |found: &Order| {
        assert_eq!(*found, order());
        Ok((fake, Way::OnDemand))
    };
    (ours, facts, streams, thread::spawn(move || hold(theirs, start)))
}

fn greeted(socket: UnixStream) -> Client {
    Client::greeted(socket, "worker".as_ref(), 1, None).unwrap()
}

#[test]
fn worker_starts_what_is_ordered_and_serves_it_until_it_is_stopped() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    assert_eq!(client.start(order()).unwrap(), Way::OnDemand);
    assert_eq!(client.console().unwrap(), b"Linux version\n");
    let vm = client.vm();
    vm.pause().unwrap();
    assert!(facts.paused.load(Ordering::Relaxed));
    assert_eq!(client.status().unwrap().state, State::Paused);
    vm.resume().unwrap();
    assert!(!facts.paused.load(Ordering::Relaxed));
    assert_eq!(client.status().unwrap().state, State::Running);
    // A second machine is for a second worker.
    assert!(matches!(client.start(order()), Err(Error::WorkerFailed { .. })));
    client.stop().unwrap();
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
    assert!(matches!(client.console(), Err(Error::WorkerGone)));
}

#[test]
fn worker_ends_with_the_connection_of_who_started_it() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    client.start(order()).unwrap();
    drop(client);
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

#[test]
fn who_asks_a_worker_that_its_owner_ended_is_told_that_it_was_stopped() {
    let (socket, _facts, _streams, worker) = worker();
    let client = greeted(socket.try_clone().unwrap());
    client.start(order()).unwrap();
    client.mark_over();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    worker.join().unwrap();
    assert!(matches!(client.console(), Err(Error::Stopped)));
    assert_eq!(Witness::There(client).end(), End::Stopped);
}

#[test]
fn worker_that_cannot_start_tells_why_and_ends() {
    let (socket, theirs) = UnixStream::pair().unwrap();
    let fail = |_: &Order| Err::<(Fake, Way), _>(Error::InvalidName { name: "../x".into() });
    let worker = thread::spawn(move || hold(theirs, fail));
    let error = greeted(socket).start(order()).unwrap_err();
    assert!(matches!(&error, Error::WorkerFailed { reason } if reason.contains("../x")), "{error}");
    worker.join().unwrap();
}

#[test]
fn worker_starts_nothing_for_who_speaks_otherwise() {
    let hello = Ask::Hello { version: VERSION };
    let other = Ask::Hello { version: VERSION + 1 };
    for said in [vec![], vec![other, Ask::Start(order())], vec![hello, Ask::Console]] {
        let (mut socket, theirs) = UnixStream::pair().unwrap();
        let refuse = |_: &Order| -> Result<(Fake, Way), Error> { panic!("nothing was ordered") };
        let worker = thread::spawn(move || hold(theirs, refuse));
        said.iter().for_each(|ask| socket.write_all(&ask.to_frame()).unwrap());
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        worker.join().unwrap();
    }
}
