use super::*;
use crate::codec::DecodeError;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Debug;

fn assert_round_trip<M: Message + PartialEq + Debug>(message: &M) {
    let frame = message.to_frame();
    let header = Header::decode(frame[..HEADER_SIZE].try_into().unwrap()).unwrap();
    assert_eq!(header.length, frame.len() - HEADER_SIZE);
    assert_eq!(header.kind, message.kind());
    assert_eq!(M::decode(header.kind, &frame[HEADER_SIZE..]).as_ref(), Ok(message));
    for cut in HEADER_SIZE..frame.len() {
        let decoded = M::decode(header.kind, &frame[HEADER_SIZE..cut]);
        assert_ne!(decoded.as_ref(), Ok(message), "cut at {cut} goes unnoticed");
    }
}

fn assert_container_round_trips(container: &Container) {
    let payload = container.encode();
    assert_eq!(Container::decode(&payload).as_ref(), Ok(container));
    for cut in 0..payload.len() {
        assert!(Container::decode(&payload[..cut]).is_err(), "cut at {cut} goes unnoticed");
    }
    assert_eq!(Request::decode(0x21, &payload), Ok(Request::Attach(payload)));
}

fn failure() -> Failure {
    Failure { operation: Operation::Mount, subject: "/dev/pmem0".into(), errno: 22 }
}

fn command() -> Command {
    Command {
        argv: vec![b"/bin/echo".to_vec(), b"\xff".to_vec()],
        env: vec![b"A=1".to_vec()],
        env_clear: true,
        cwd: Some(b"/tmp".to_vec()),
        user: Some("nobody:nogroup".into()),
        timeout_ms: 30_000,
        stdin: true,
        terminal: Some(WindowSize { rows: 24, columns: 80 }),
        files: vec![StagedFile { path: b"/tmp/x".to_vec(), mode: 0o600, content: vec![0, 255] }],
        chain: vec![vec![b"true".to_vec()], Vec::new()],
        ulimits: vec![Ulimit { resource: 7, soft: 64, hard: Ulimit::UNLIMITED }],
    }
}

fn settings() -> Settings {
    Settings {
        read_only: true,
        tmpfs: vec![Tmpfs {
            path: b"/run".to_vec(),
            flags: Tmpfs::NO_SUID | Tmpfs::NO_DEV,
            data: "size=64m,mode=755".into(),
        }],
        shm_size: Some(1 << 20),
        ulimits: vec![Ulimit { resource: 15, soft: 0, hard: 0 }],
        volumes: vec![b"/data".to_vec(), b"/srv".to_vec()],
    }
}

fn network() -> Network {
    Network {
        slot: 15,
        mtu: 1500,
        ipv4: [198, 18, 0, 2],
        ipv4_prefix: 32,
        ipv4_gateway: [198, 18, 0, 1],
        ipv6: [0xfd; 16],
        ipv6_prefix: 128,
        ipv6_gateway: [0xfe; 16],
    }
}

#[test]
fn resume_without_a_network_is_that_of_earlier_versions() {
    let entropy = [7; ENTROPY_SIZE];
    let resume = resume(entropy);
    let frame = Control::Resume(resume.clone()).to_frame();
    assert_eq!(frame.len(), HEADER_SIZE + 8 + ENTROPY_SIZE + 1);
    let frame = Control::Resume(Resume { network: Some(network()), ..resume }).to_frame();
    for length in HEADER_SIZE + 8 + ENTROPY_SIZE + 2..frame.len() {
        assert!(Control::decode(0x01, &frame[HEADER_SIZE..length]).is_err(), "{length}");
    }
}

/// A resume with nothing to set up.
fn resume(entropy: [u8; ENTROPY_SIZE]) -> Resume {
    let (hostname, network, shares, volumes) = (None, None, Vec::new(), Vec::new());
    Resume { realtime_ns: 1, entropy, hostname, network, shares, volumes }
}

fn volume(target: &str) -> Volume {
    Volume { slot: 3, target: target.into(), read_only: false }
}

#[test]
fn resume_with_no_volume_or_too_many_is_refused() {
    let decoded = |volumes: Vec<Volume>| {
        let frame = Control::Resume(Resume { volumes, ..resume([7; ENTROPY_SIZE]) }).to_frame();
        Control::decode(0x04, &frame[HEADER_SIZE..])
    };
    assert!(decoded(vec![volume("/data"); MAX_VOLUMES]).is_ok());
    assert!(decoded(vec![volume("/data"); MAX_VOLUMES + 1]).is_err());
    assert!(decoded(vec![volume("/a\0b")]).is_err());
    let mut payload = Control::Resume(resume([7; ENTROPY_SIZE])).to_frame().split_off(HEADER_SIZE);
    // No network, no shares, no volumes.
    payload.extend([0; 9]);
    assert!(Control::decode(0x04, &payload).is_err());
}

fn share(target: &str) -> Share {
    Share { slot: 7, tag: "sm-7".into(), target: target.into(), read_only: true }
}

#[test]
fn share_without_a_usable_tag_or_target_is_refused() {
    let decoded = |share| {
        let entropy = [7; ENTROPY_SIZE];
        let resume = Resume { shares: vec![share], ..resume(entropy) };
        Control::decode(0x03, &Control::Resume(resume).to_frame()[HEADER_SIZE..])
    };
    assert!(decoded(share("/project")).is_ok());
    for tag in ["", "a\0", &"t".repeat(37)] {
        assert!(decoded(Share { tag: tag.into(), ..share("/project") }).is_err(), "{tag:?}");
    }
    assert!(decoded(share("/a\0b")).is_err());
}

#[test]
fn prefix_longer_than_its_address_is_refused() {
    let decoded = |network| {
        let entropy = [7; ENTROPY_SIZE];
        let resume = Resume { network: Some(network), ..resume(entropy) };
        Control::decode(0x01, &Control::Resume(resume).to_frame()[HEADER_SIZE..])
    };
    assert!(decoded(network()).is_ok());
    assert!(decoded(Network { ipv4_prefix: 33, ..network() }).is_err());
    assert!(decoded(Network { ipv6_prefix: 129, ..network() }).is_err());
}

#[test]
fn control_and_events_round_trip() {
    let resume = Resume { hostname: Some("web".into()), ..resume([7; ENTROPY_SIZE]) };
    assert_round_trip(&Control::Resume(resume.clone()));
    let shares = vec![share("/project"), share("/data")];
    assert_round_trip(&Control::Resume(Resume { shares: shares.clone(), ..resume.clone() }));
    let resume = Resume { network: Some(network()), ..resume };
    assert_round_trip(&Control::Resume(resume.clone()));
    assert_round_trip(&Control::Resume(Resume { shares: shares.clone(), ..resume.clone() }));
    let volumes = vec![volume("/data"), Volume { slot: 4, read_only: true, ..volume("/scratch") }];
    assert_round_trip(&Control::Resume(Resume { volumes: volumes.clone(), ..resume.clone() }));
    assert_round_trip(&Control::Resume(Resume { volumes, shares, ..resume }));
    assert_round_trip(&Control::Clock { realtime_ns: u64::MAX });
    assert_round_trip(&Event::Hello { version: VERSION });
    assert_round_trip(&Event::Resumed);
    assert_round_trip(&Event::ResumeFailed(failure()));
}

#[test]
fn requests_round_trip() {
    let entrypoint = Process {
        argv: vec![b"nginx".to_vec()],
        env: vec![b"PATH=/bin".to_vec()],
        cwd: b"/".to_vec(),
        user: "101:101".into(),
    };
    let actions = [
        None,
        Some(Action::Restart { signal: 15 }),
        Some(Action::Signal(64)),
        Some(Action::Exec(vec![b"reseed".to_vec(), Vec::new()])),
    ];
    for action in actions {
        assert_container_round_trips(&Container {
            slots: vec![2, 3],
            root_device: "pmem0".into(),
            hostname: "web".into(),
            entrypoint: entrypoint.clone(),
            after_restore: AfterRestore { action, timeout_ms: 5 },
            settings: settings(),
            stop_signal: 3,
            readiness: Readiness::Writes(b"ready".to_vec()),
        });
    }
    for words in [["ping"].as_slice(), &["sh", "-c", "ping"]] {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let readiness = Readiness::Answers(words);
        assert_container_round_trips(&Container { readiness, ..Container::default() });
    }
    assert_container_round_trips(&Container::default());
    assert_round_trip(&Request::Exec(command()));
    assert_round_trip(&Request::Exec(Command { ulimits: Vec::new(), ..command() }));
    assert_round_trip(&Request::Logs { follow: true });
    assert_round_trip(&Request::SignalEntrypoint { signal: 15 });
    for framed in [false, true] {
        assert_round_trip(&Request::Connect { port: 80, framed });
    }
    assert_round_trip(&Request::Listen { port: 0 });
    assert_round_trip(&Request::Accept { connection: 7 });
    assert_round_trip(&Request::Datagrams { port: 53 });
    for request in [
        Request::Start,
        Request::StartInit,
        Request::Listening,
        Request::Settle,
        Request::WaitEntrypoint,
        Request::Memory,
    ] {
        assert_round_trip(&request);
    }
    for (mode, owner) in [(None, None), (Some(0o7777), Some("1:2".into()))] {
        let path = b"/etc/x".to_vec();
        assert_round_trip(&Request::WriteFile(WriteFile { path, mode, owner, append: true }));
    }
    assert_round_trip(&Request::ReadFile { path: b"/a".to_vec() });
    assert_round_trip(&Request::CopyIn { path: b"/b".to_vec() });
    assert_round_trip(&Request::CopyOut { path: b"/c".to_vec() });
}

#[test]
fn inputs_and_replies_round_trip() {
    assert_round_trip(&Input::DataEnd);
    assert_round_trip(&Input::Signal(9));
    assert_round_trip(&Input::Data(vec![0, 1, 2]));
    assert_round_trip(&Input::Resize(WindowSize { rows: 1, columns: 2 }));
    for output in [Output::Stdout, Output::Stderr] {
        for flow in [Flow::Open, Flow::Paused, Flow::Closed] {
            assert_round_trip(&Input::Flow { output, flow });
        }
    }
    assert_round_trip(&Reply::Done);
    assert_round_trip(&Reply::Failed(failure()));
    assert_round_trip(&Reply::Started { pid: 42 });
    assert_round_trip(&Reply::Stdout(b"out".to_vec()));
    assert_round_trip(&Reply::Stderr(b"err".to_vec()));
    assert_round_trip(&Reply::Ports(vec![80, 443]));
    assert_round_trip(&Reply::StdinTaken(70_000));
    assert_round_trip(&Reply::StdinClosed);
    assert_round_trip(&Reply::Memory(Memory { total_kib: 1 << 40, available_kib: 7 }));
    assert_round_trip(&Reply::Data(b"data".to_vec()));
    assert_round_trip(&Reply::Connected);
    assert_round_trip(&Reply::Listens { port: 80 });
    assert_round_trip(&Reply::Accepted { connection: u32::MAX });
    assert_round_trip(&Segment::Data(b"bytes".to_vec()));
    assert_round_trip(&Segment::End);
    for length in [0, 1, MAX_DATAGRAM] {
        assert_round_trip(&Datagram(vec![7; length]));
    }
    for status in [ExitStatus::Code(3), ExitStatus::Signal(9)] {
        let exit = Exit { status, timed_out: true, duration_us: 5, peak_rss_kib: 6 };
        assert_round_trip(&Reply::Exited(exit));
    }
}

#[test]
fn operations_round_trip_by_name() {
    for name in failure::NAMES {
        let operation = Operation::from(*name);
        assert_eq!(operation.as_str(), *name);
        assert!(!matches!(operation, Operation::Other(_)), "{name}");
    }
}

#[test]
fn unknown_operation_survives() {
    let operation = Operation::Other("teleport".into());
    let unknown = Failure { operation, ..failure() };
    assert_round_trip(&Reply::Failed(unknown.clone()));
    assert_eq!(unknown.to_string(), "teleport of /dev/pmem0 failed: invalid argument (errno 22)");
}

#[test]
fn frame_over_the_limit_is_refused() {
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    assert!(Header::decode(bytes).is_ok());
    bytes[0] = 1;
    assert!(matches!(Header::decode(bytes), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn failed_hook_is_described_by_its_subject() {
    let subject = "/etc/hook exited with status 3; it wrote: no key".into();
    let failure = Failure { operation: Operation::AfterRestore, subject, errno: 0 };
    let expected =
        "the hook after the restore failed: /etc/hook exited with status 3; it wrote: no key";
    assert_eq!(failure.to_string(), expected);
}

#[test]
fn malformed_after_restore_is_refused() {
    let action = Some(Action::Signal(1));
    let after_restore = AfterRestore { action, timeout_ms: 1 };
    let container = Container { after_restore, ..Container::default() };
    let payload = container.encode();
    // At the end: whether there is an action, its kind, its signal, no arguments, the time limit, 14 bytes
    // of settings, and 6 of what a restart needs.
    let [has_action, kind, signal] = [35, 34, 33].map(|back| payload.len() - back);
    assert_eq!(payload[has_action..signal + 1], [1, 1, 1]);
    let decode = |place: usize, value: u8| {
        let mut payload = payload.clone();
        payload[place] = value;
        Container::decode(&payload)
    };
    assert_eq!(decode(kind, 1), Ok(container));
    for (place, value) in [(kind, 2), (kind, 3), (signal, 0), (signal, 65), (payload.len() - 28, 0)]
    {
        assert!(matches!(decode(place, value), Err(DecodeError::Illegal { .. })), "{place}");
    }
}

#[test]
fn malformed_settings_are_refused() {
    let with_ulimit = |resource, soft, hard| Settings {
        ulimits: vec![Ulimit { resource, soft, hard }],
        ..Settings::default()
    };
    let with_tmpfs = |path: &[u8], flags, data: &str| Settings {
        tmpfs: vec![Tmpfs { path: path.to_vec(), flags, data: data.into() }],
        ..Settings::default()
    };
    for settings in [
        with_ulimit(16, 0, 0),
        with_ulimit(7, 2, 1),
        with_tmpfs(b"/a\0", 0, ""),
        with_tmpfs(b"/a", 32, ""),
        with_tmpfs(b"/a", 0, "size=1\0"),
        Settings { shm_size: Some(0), ..Settings::default() },
        Settings { volumes: vec![b"/a\0".to_vec()], ..Settings::default() },
    ] {
        let container = Container { settings: settings.clone(), ..Container::default() };
        let decoded = Container::decode(&container.encode());
        assert!(matches!(decoded, Err(DecodeError::Illegal { .. })), "{settings:?}: {decoded:?}");
    }
    // An empty list of a command's limits is left out.
    let frame = Request::Exec(Command { ulimits: Vec::new(), ..command() }).to_frame();
    let payload = [&frame[HEADER_SIZE..], &[0; 4]].concat();
    assert!(matches!(Request::decode(0x23, &payload), Err(DecodeError::Illegal { .. })));
}

#[test]
fn reserved_header_bytes_are_refused() {
    assert!(matches!(
        Header::decode([0, 0, 0, 0, 1, 0, 1, 0]),
        Err(DecodeError::Illegal { field: "frame reserved", .. })
    ));
}

#[test]
fn unknown_kind_is_refused() {
    assert!(matches!(Reply::decode(0x99, &[]), Err(DecodeError::Illegal { value: 0x99, .. })));
}

#[test]
fn zero_byte_in_an_argument_is_refused() {
    let mut bad = command();
    bad.argv = vec![b"a\0b".to_vec()];
    let frame = Request::Exec(bad).to_frame();
    let decoded = Request::decode(0x23, &frame[HEADER_SIZE..]);
    assert!(matches!(decoded, Err(DecodeError::Illegal { field: "argv", .. })));
}

#[test]
fn port_zero_is_refused_except_to_listen_on() {
    let refused = Request::decode(0x2C, &[0, 0, 1]);
    assert!(matches!(refused, Err(DecodeError::Illegal { field: "port", value: 0, .. })));
    assert!(Reply::decode(0x4D, &[0, 0]).is_err());
    let refused = Request::decode(0x38, &[0, 0]);
    assert!(matches!(refused, Err(DecodeError::Illegal { field: "port", value: 0, .. })));
    assert_eq!(Request::decode(0x2D, &[0, 0]), Ok(Request::Listen { port: 0 }));
}

#[test]
fn segment_over_the_limit_is_refused() {
    assert!(Segment::decode(Segment::DATA, &vec![0; MAX_CHUNK]).is_ok());
    assert!(Segment::decode(Segment::DATA, &vec![0; MAX_CHUNK + 1]).is_err());
}

#[test]
fn datagram_over_the_limit_is_refused_by_its_header() {
    let header = |length| Header { length, kind: Datagram::KIND };
    assert_eq!(Datagram::check(header(MAX_DATAGRAM)), Ok(MAX_DATAGRAM));
    let refused = Datagram::check(header(MAX_DATAGRAM + 1));
    assert!(matches!(refused, Err(DecodeError::TooLarge { field: "datagram", .. })));
    assert!(Datagram::decode(Datagram::KIND, &vec![0; MAX_DATAGRAM + 1]).is_err());
    let other = Datagram::check(Header { length: 1, kind: Segment::DATA });
    assert!(matches!(other, Err(DecodeError::Illegal { field: "frame kind", .. })));
}

#[test]
fn datagram_header_is_that_of_its_frame() {
    let frame = Datagram(vec![7; 300]).to_frame();
    assert_eq!(frame[..HEADER_SIZE], Datagram::header(300));
}

#[test]
fn header_round_trips() {
    let header = Header { length: 0x1234, kind: 0x51 };
    assert_eq!(Header::decode(header.encode()), Ok(header));
}

#[test]
fn signal_zero_is_refused() {
    assert!(matches!(Input::decode(0x33, &[0]), Err(DecodeError::Illegal { field: "signal", .. })));
}

#[test]
fn debug_output_omits_the_entropy() {
    use alloc::format;
    let resume = resume([0xAB; ENTROPY_SIZE]);
    let shown = format!("{resume:?}");
    assert!(!shown.contains("171") && !shown.contains("entropy:"), "{shown}");
}

#[test]
fn mode_beyond_its_bits_is_refused() {
    let file = WriteFile { path: b"/x".to_vec(), mode: Some(0o10000), ..WriteFile::default() };
    let frame = Request::WriteFile(file).to_frame();
    let decoded = Request::decode(0x2A, &frame[HEADER_SIZE..]);
    assert!(matches!(decoded, Err(DecodeError::Illegal { field: "mode", .. })), "{decoded:?}");
}

#[test]
fn unknown_output_or_flow_is_refused() {
    for (payload, wanted) in [([0, 0], "output"), ([3, 0], "output"), ([1, 3], "flow")] {
        let decoded = Input::decode(0x35, &payload);
        assert!(matches!(decoded, Err(DecodeError::Illegal { field, .. }) if field == wanted));
    }
}
