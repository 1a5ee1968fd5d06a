//! Client and server against a guest that the test plays.

mod descriptors;
mod replace;

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

use super::message::{VERSION, WorkerReply, WorkerRequest};
use super::parcel::Parcel;
use super::program::hold;
use super::*;
use crate::agent::read_message;
use crate::error::{InvalidInput, PortError, WorkerError};
use crate::machine::{MachineHandle, StoredSnapshot, StreamError};
use crate::{Error, ExitStatus, os};
use supermachine_test_support::mutate;
use supermachine_vmm::{GuestFailure, Machine, MachineError};

const PATIENCE: Duration = Duration::from_secs(60);

/// The test's view of its guest.
#[derive(Debug, Default)]
struct Facts {
    failure: Mutex<Option<GuestFailure>>,
    dropped: Mutex<bool>,
    paused: AtomicBool,
    /// Reached at the start of a slow snapshot, and again before its end.
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

/// A guest whose end of each stream arrives on a channel.
#[derive(Debug)]
struct Fake {
    streams: Mutex<Sender<UnixStream>>,
    facts: Arc<Facts>,
}

impl MachineHandle for Fake {
    fn dial(&self, frames: &[u8]) -> Result<UnixStream, Error> {
        let (mut stream, guest) = UnixStream::pair().unwrap();
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(frames).unwrap();
        self.streams.lock().unwrap().send(guest).unwrap();
        Ok(stream)
    }

    fn exit(&self) -> Option<StreamError> {
        let failure = self.facts.failure.lock().unwrap().clone()?;
        Some(StreamError::Guest { failure, console: "the last words".into() })
    }

    fn is_healthy(&self) -> bool {
        self.exit().is_none()
    }

    fn console(&self) -> Result<Vec<u8>, Error> {
        Ok(b"Linux version\n".to_vec())
    }

    fn usage(&self) -> Result<(Duration, u64), Error> {
        Ok((Duration::from_millis(7), 9))
    }

    fn request_snapshot(&self, name: &str) -> Result<StoredSnapshot, Error> {
        if name == "slow" {
            self.facts.lasts.wait();
            self.facts.lasts.wait();
        }
        Err(Error::Invalid { source: InvalidInput::SnapshotName { name: name.to_owned() } })
    }

    fn pause(&self) -> Result<(), Error> {
        self.facts.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        self.facts.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        Ok(())
    }

    fn keep_alive(&self) -> Option<Arc<Machine>> {
        None
    }
}

/// Owns a fake guest, which stops when this is dropped.
#[derive(Debug)]
struct FakeOwner {
    facts: Arc<Facts>,
    streams: Mutex<Sender<UnixStream>>,
}

impl Owner for FakeOwner {
    fn reset(
        &mut self,
        hostname: Option<&str>,
        ends: Parcel,
    ) -> Result<Arc<dyn MachineHandle>, Error> {
        assert_eq!((hostname, ends.files.len()), (Some("next"), 1));
        if ends.bytes != b"ends" {
            return Err(MachineError::Unresettable.into());
        }
        let streams = Mutex::new(self.streams.lock().unwrap().clone());
        Ok(Arc::new(Fake { streams, facts: Arc::clone(&self.facts) }))
    }
}

impl Drop for FakeOwner {
    fn drop(&mut self) {
        *self.facts.dropped.lock().unwrap() = true;
    }
}

fn hosted(fake: Fake) -> Hosted {
    let streams = Mutex::new(fake.streams.lock().unwrap().clone());
    let owner = FakeOwner { facts: Arc::clone(&fake.facts), streams };
    Hosted::new(Arc::new(fake), None, Box::new(owner))
}

/// A server on its own thread, with a guest.
struct Stage {
    dir: TempDir,
    facts: Arc<Facts>,
    streams: Receiver<UnixStream>,
    /// The stream that reports the entrypoint.
    entrypoint: UnixStream,
    control: Control,
    server: Option<JoinHandle<Result<Stopped, Error>>>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(dir.path().join("socket")).unwrap();
        let (sender, streams) = channel();
        let facts = Arc::new(Facts::default());
        let fake = Fake { streams: Mutex::new(sender), facts: Arc::clone(&facts) };
        let serving = server.prepare_hosted(hosted(fake), "a label".into()).unwrap();
        let control = serving.control();
        let server = Some(thread::spawn(move || serving.run()));
        let mut entrypoint = streams.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            read_message::<Request>(&mut entrypoint, None).unwrap(),
            Request::WaitEntrypoint
        );
        Self { dir, facts, streams, entrypoint, control, server }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn client(&self) -> Client {
        Client::connect(self.path()).unwrap()
    }

    /// Plays the agent for `count` commands: `yes` writes 4 MiB, `cat` returns its input.
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
fn commands_through_a_worker_have_output_input_and_status() {
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
fn ports_are_reachable_through_a_worker() {
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
    // The forward belonged to the `Vm`; the machine does not.
    assert_eq!(client.read(&mut text).unwrap_or(0), 0);
    assert_eq!(stage.client().status().unwrap().state, State::Running);
}

#[test]
fn status_has_the_label_and_the_entrypoints_exit() {
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
            matches!(state, State::EntrypointExited { status } if status.signal() == Some(9)),
            "{state:?}"
        );
    }
    let (cpu_time, exits) = stage.client().usage().unwrap();
    assert_eq!((cpu_time, exits), (Duration::from_millis(7), 9));
    assert_eq!(stage.client().vm().console(), b"Linux version\n");
}

#[test]
fn guest_exit_reaches_waiting_and_later_clients() {
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
fn stop_drops_the_machine_then_clients_and_is_answered_last() {
    let mut stage = Stage::new();
    let (other, path) = (stage.client(), stage.path());
    let stopping = thread::spawn({
        let client = stage.client();
        move || client.stop()
    });
    let stopped = stage.stop();
    assert!(*stage.facts.dropped.lock().unwrap());
    assert!(!path.exists());
    assert!(matches!(other.status(), Err(Error::Worker { source: WorkerError::Gone })));
    assert!(matches!(other.vm().exec(["cat"]), Err(Error::Worker { source: WorkerError::Gone })));
    assert!(!stopping.is_finished());
    drop(stopped);
    stopping.join().unwrap().unwrap();
    let error = Client::connect(&path).unwrap_err();
    assert!(
        matches!(error, Error::Worker { source: WorkerError::Unreachable { .. } }),
        "{error:?}"
    );
}

#[test]
fn failed_snapshot_has_its_reason() {
    let stage = Stage::new();
    let error = stage.client().vm().snapshot("../x").unwrap_err();
    assert!(error.to_string().contains("\"../x\" is not a snapshot name"), "{error}");
}

#[test]
fn machine_is_usable_during_a_snapshot() {
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
fn unreachable_machine_stops() {
    let mut stage = Stage::new();
    let client = stage.client();
    std::fs::remove_file(stage.path()).unwrap();
    thread::sleep(Duration::from_millis(500));
    // A connected client can still use it.
    assert_eq!(client.status().unwrap().state, State::Running);
    drop(client);
    drop(stage.stop());
    assert!(*stage.facts.dropped.lock().unwrap());
}

#[test]
fn client_over_the_limit_is_refused_and_others_are_served() {
    let stage = Stage::new();
    let clients: Vec<_> = (0..256).map(|_| stage.client()).collect();
    let error = Client::connect(stage.path()).unwrap_err();
    let Error::Worker { source: WorkerError::Unreachable { source, .. } } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.raw_os_error(), Some(libc::EUSERS));
    clients.iter().for_each(|client| drop(client.status().unwrap()));
    drop(clients);
    let end = std::time::Instant::now() + PATIENCE;
    while Client::connect(stage.path()).is_err() {
        assert!(std::time::Instant::now() < end, "no place became free");
    }
}

#[test]
fn socket_file_is_private_and_a_served_one_is_kept() {
    let stage = Stage::new();
    let mode = std::fs::metadata(stage.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Server::bind(stage.path()).unwrap_err();
    assert!(matches!(error, Error::Port { source: PortError::Listen { .. } }), "{error:?}");
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
    let server =
        thread::spawn(move || server.prepare_hosted(hosted(fake), String::new())?.run().map(drop));
    Client::connect(&path).unwrap().stop().unwrap();
    server.join().unwrap().unwrap();
    drop(streams);
    assert!(!path.exists());
}

#[test]
fn streams_are_close_on_exec() {
    let stage = Stage::new();
    let stream = stage.client().dial(&[]).unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", stream.as_raw_fd()));
    let flags = flags.unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    let flags = i32::from_str_radix(flags, 8).unwrap();
    assert_ne!(flags & libc::O_CLOEXEC, 0);
}

#[test]
fn other_version_is_refused_by_either_side() {
    let stage = Stage::new();
    let mut raw = UnixStream::connect(stage.path()).unwrap();
    raw.write_all(&WorkerRequest::Hello { version: VERSION + 1 }.to_frame()).unwrap();
    let mut said = Vec::new();
    // It may be closed by now, or reset by unread bytes.
    let _ = raw.write_all(&WorkerRequest::Status.to_frame());
    let _ = raw.read_to_end(&mut said);
    assert_eq!(said, WorkerReply::Hello { version: VERSION }.to_frame());

    let path = stage.dir.path().join("other");
    let listener = UnixListener::bind(&path).unwrap();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&WorkerReply::Hello { version: 9 }.to_frame()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = Client::connect(&path).unwrap_err();
    assert!(
        matches!(error, Error::Worker { source: WorkerError::Version { found: 9, supported: VERSION, pid } }
            if pid == std::process::id()),
        "{error:?}"
    );
    other.join().unwrap();
}

#[test]
fn malformed_client_does_not_affect_others() {
    let stage = Stage::new();
    let hello = WorkerRequest::Hello { version: VERSION }.to_frame();
    let oversized = [&hello[..], &[0xFF; HEADER_SIZE]].concat();
    let status = WorkerRequest::Status.to_frame();
    for bytes in [&status[..], &[0; 3], &oversized, &[&hello[..], &hello[..4]].concat()] {
        let mut raw = UnixStream::connect(stage.path()).unwrap();
        raw.write_all(bytes).unwrap();
        raw.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = raw.read_to_end(&mut Vec::new());
    }
    assert_eq!(stage.client().status().unwrap().state, State::Running);
}

#[test]
fn exited_worker_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let worker = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_message::<WorkerRequest>(&mut stream, None).unwrap();
        stream.write_all(&WorkerReply::Hello { version: VERSION }.to_frame()).unwrap();
        read_message::<WorkerRequest>(&mut stream, None).unwrap();
        stream.write_all(&WorkerReply::Stream.to_frame()[..5]).unwrap();
    });
    let client = Client::connect(&path).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            client.vm().exec(["cat"]),
            Err(Error::Worker { source: WorkerError::Gone })
        ));
    }
    worker.join().unwrap();
}

fn answers() -> Vec<WorkerReply> {
    let failures = [
        GuestFailure::Shutdown,
        GuestFailure::Unrunnable { reason: "internal error".into(), code: 7 },
        GuestFailure::PageLost { what: "chunk".into() },
    ];
    let ends =
        failures.iter().cloned().map(|failure| StreamError::Guest { failure, console: "x".into() });
    let ends: Vec<StreamError> = ends.chain([StreamError::Stopped]).collect();
    let failed = failures.map(|failure| State::Failed { failure, console: "é".into() });
    let code = ExitStatus(wire::ExitStatus::Code(3));
    let signal = ExitStatus(wire::ExitStatus::Signal(9));
    let states = [
        State::Running,
        State::Paused,
        State::EntrypointExited { status: code },
        State::EntrypointExited { status: signal },
    ];
    let status = |state| WorkerReply::Status { label: "label".into(), state };
    let taken = StoredSnapshot {
        store: "/store".into(),
        digest: Digest::of(b"x"),
        stopped: Duration::from_millis(3),
        took: Duration::from_secs(1),
    };
    let mut all = vec![
        WorkerReply::Hello { version: VERSION },
        WorkerReply::Stream,
        WorkerReply::Refused { errno: 16 },
        WorkerReply::Console(b"bytes".to_vec()),
        WorkerReply::Usage { cpu_time: Duration::from_nanos(5), exits: 6 },
        WorkerReply::Snapshotted(taken),
        WorkerReply::Failed { reason: "why".into() },
        WorkerReply::Stopped { before: None },
        WorkerReply::Done,
    ];
    all.push(WorkerReply::Captured { stopped: Duration::from_millis(3) });
    all.extend(states.into_iter().chain(failed).map(status));
    all.push(WorkerReply::Seen(None));
    all.extend(ends.iter().cloned().map(|end| WorkerReply::Seen(Some(end))));
    all.extend(ends.into_iter().map(|end| WorkerReply::Stopped { before: Some(end) }));
    all
}

fn asks() -> Vec<WorkerRequest> {
    let name = "name".to_owned();
    vec![
        WorkerRequest::Hello { version: VERSION },
        WorkerRequest::Dial,
        WorkerRequest::Look,
        WorkerRequest::Console,
        WorkerRequest::Usage,
        WorkerRequest::Status,
        WorkerRequest::Snapshot { name },
        WorkerRequest::Stop,
        WorkerRequest::Pause,
        WorkerRequest::Resume,
        WorkerRequest::Capture,
        WorkerRequest::Start { hostname: None },
        WorkerRequest::Start { hostname: Some("guest".into()) },
    ]
}

/// Decodes a frame, if it is valid.
fn accepts<M: Message + PartialEq + std::fmt::Debug>(frame: &[u8]) -> Option<M> {
    let (header, payload) = frame.split_first_chunk::<HEADER_SIZE>()?;
    let header = Header::decode(*header).ok()?;
    M::decode(header.kind, payload.get(..header.length)?).ok()
}

#[test]
fn messages_round_trip_and_truncated_ones_are_refused() {
    for answer in answers() {
        let frame = answer.to_frame();
        assert_eq!(accepts(&frame), Some(answer));
        (HEADER_SIZE..frame.len()).for_each(|end| {
            let mut part = frame[..end].to_vec();
            let length = u32::try_from(end - HEADER_SIZE).unwrap();
            part[..4].copy_from_slice(&length.to_le_bytes());
            let is_bytes = part[4] == 0x85;
            assert!(is_bytes || accepts::<WorkerReply>(&part).is_none(), "{part:?}");
        });
    }
    for ask in asks() {
        assert_eq!(accepts(&ask.to_frame()), Some(ask));
    }
    assert_eq!(accepts::<WorkerRequest>(&WorkerReply::Stream.to_frame()), None);
}

#[test]
fn messages_survive_mutations() {
    let mut samples: Vec<Vec<u8>> = answers().iter().map(Message::to_frame).collect();
    samples.extend(asks().iter().map(Message::to_frame));
    let run = |bytes: &[u8]| {
        let answer = accepts::<WorkerReply>(bytes);
        if let Some(answer) = &answer {
            assert_eq!(accepts::<WorkerReply>(&answer.to_frame()).as_ref(), Some(answer));
        }
        answer.is_some() || accepts::<WorkerRequest>(bytes).is_some()
    };
    mutate::smoke(&samples, run);
}

#[test]
fn long_text_is_cut_between_characters() {
    let long = WorkerReply::Failed { reason: "é".repeat(40_000) };
    let Some(WorkerReply::Failed { reason }) = accepts(&long.to_frame()) else { panic!("refused") };
    assert_eq!(reason, "é".repeat(8192));
}

#[test]
fn only_own_user_and_root_are_trusted() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let own = os::peer(&ours).unwrap();
    assert_eq!(own.pid, std::process::id());
    assert!(os::is_trusted(own));
    assert!(os::is_trusted(os::Peer { uid: 0, ..own }));
    assert!(!os::is_trusted(os::Peer { uid: own.uid + 1, ..own }));
}

/// A worker on its own thread with the test's guest, and a connection to it.
fn worker() -> (UnixStream, Arc<Facts>, Receiver<UnixStream>, JoinHandle<()>) {
    let (sender, streams) = channel();
    let facts = Arc::new(Facts::default());
    let fake = Fake { streams: Mutex::new(sender), facts: Arc::clone(&facts) };
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let start = move |hostname: Option<&str>, parts: Parcel| {
        assert_eq!((hostname, parts.bytes.as_slice()), (Some("guest"), &b"parts"[..]));
        assert_eq!(parts.files.len(), 1);
        Ok(hosted(fake))
    };
    (ours, facts, streams, thread::spawn(move || hold(theirs, start)))
}

/// Orders the machine that the worker of the test expects.
fn start(client: &Client) -> Result<(), Error> {
    let files = vec![tempfile::tempfile().unwrap()];
    client.start(Some("guest"), &Parcel { bytes: b"parts".to_vec(), files })
}

fn greeted(socket: UnixStream) -> Client {
    Client::greeted(socket, "worker".as_ref(), 1, None).unwrap()
}

#[test]
fn worker_starts_the_requested_machine_and_serves_it_until_stop() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    start(&client).unwrap();
    assert_eq!(client.console().unwrap(), b"Linux version\n");
    let vm = client.vm();
    vm.pause().unwrap();
    assert!(facts.paused.load(Ordering::Relaxed));
    assert_eq!(client.status().unwrap().state, State::Paused);
    vm.resume().unwrap();
    assert!(!facts.paused.load(Ordering::Relaxed));
    assert_eq!(client.status().unwrap().state, State::Running);
    client.stop().unwrap();
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
    assert!(matches!(client.console(), Err(Error::Worker { source: WorkerError::Gone })));
}

/// Orders a reset.
fn reset(client: &Client, ends: &[u8]) -> Result<Client, Error> {
    let files = vec![tempfile::tempfile().unwrap()];
    client.reset(Some("next"), &Parcel { bytes: ends.to_vec(), files })
}

#[test]
fn reset_machine_serves_its_next_user_and_no_former_one() {
    let (socket, facts, streams, worker) = worker();
    let former = greeted(socket);
    start(&former).unwrap();
    former.vm().pause().unwrap();
    let next = reset(&former, b"ends").unwrap();
    assert_eq!(next.status().unwrap().state, State::Running);
    assert!(matches!(former.console(), Err(Error::Stopped)));
    assert!(matches!(MachineHandle::dial(&former, &[]), Err(Error::Stopped)));
    // Each use has a stream that waits for its entrypoint; nothing else arrived.
    (0..2).for_each(|_| drop(streams.recv_timeout(PATIENCE).unwrap()));
    assert!(streams.try_recv().is_err());
    let former: Arc<dyn MachineHandle> = Arc::new(former);
    assert_eq!(former.wait_exit(), StreamError::Stopped);
    MachineHandle::dial(&next, &[]).unwrap();
    streams.recv_timeout(PATIENCE).unwrap();
    drop((former, next));
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

#[test]
fn failed_reset_is_reported_with_its_reason() {
    let (socket, _facts, _streams, worker) = worker();
    let client = greeted(socket);
    start(&client).unwrap();
    let Err(Error::Worker { source: WorkerError::Failed { reason } }) = reset(&client, b"other")
    else {
        panic!("no failure");
    };
    assert!(reason.contains(&MachineError::Unresettable.to_string()), "{reason}");
    drop(client);
    worker.join().unwrap();
}

#[test]
fn capture_of_a_guest_that_has_exited_reports_the_guest() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    start(&client).unwrap();
    *facts.failure.lock().unwrap() = Some(GuestFailure::Shutdown);
    let error = client.request_capture(1 << 20).unwrap_err();
    assert!(matches!(error, Error::Guest { .. }), "{error:?}");
    drop(client);
    worker.join().unwrap();
}

#[test]
fn worker_starts_one_machine_only() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    start(&client).unwrap();
    assert!(matches!(start(&client), Err(Error::Worker { source: WorkerError::Gone })));
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

#[test]
fn worker_exits_when_its_owner_disconnects() {
    let (socket, facts, _streams, worker) = worker();
    let client = greeted(socket);
    start(&client).unwrap();
    drop(client);
    worker.join().unwrap();
    assert!(*facts.dropped.lock().unwrap());
}

#[test]
fn request_to_a_worker_stopped_by_its_owner_fails_with_stopped() {
    let (socket, _facts, _streams, worker) = worker();
    let client = greeted(socket.try_clone().unwrap());
    start(&client).unwrap();
    client.mark_over();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    worker.join().unwrap();
    assert!(matches!(client.console(), Err(Error::Stopped)));
    let machine: Arc<dyn MachineHandle> = Arc::new(client);
    assert_eq!(machine.wait_exit(), StreamError::Stopped);
}

#[test]
fn worker_that_cannot_start_reports_why_and_exits() {
    let (socket, theirs) = UnixStream::pair().unwrap();
    let fail = |_: Option<&str>, _| {
        Err(Error::Invalid { source: InvalidInput::SnapshotName { name: "../x".into() } })
    };
    let worker = thread::spawn(move || hold(theirs, fail));
    let error = start(&greeted(socket)).unwrap_err();
    assert!(
        matches!(&error, Error::Worker { source: WorkerError::Failed { reason } } if reason.contains("../x")),
        "{error}"
    );
    worker.join().unwrap();
}

#[test]
fn worker_starts_nothing_without_the_greeting() {
    let hello = WorkerRequest::Hello { version: VERSION };
    let other = WorkerRequest::Hello { version: VERSION + 1 };
    for said in [
        vec![],
        vec![other, WorkerRequest::Start { hostname: None }],
        vec![hello, WorkerRequest::Console],
    ] {
        let (mut socket, theirs) = UnixStream::pair().unwrap();
        let refuse = |_: Option<&str>, _| panic!("nothing was ordered");
        let worker = thread::spawn(move || hold(theirs, refuse));
        said.iter().for_each(|ask| socket.write_all(&ask.to_frame()).unwrap());
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        worker.join().unwrap();
    }
}
