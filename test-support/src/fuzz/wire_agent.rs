//! The host's messages as the agent reads them: control, requests, input, segments and datagrams.

use supermachine_formats::wire::{
    Action, AfterRestore, Command, Container, Control, Datagram, ENTROPY_SIZE, Flow, HEADER_SIZE,
    Header, Input, Message, Network, Output, Process, Readiness, Request, Resume, Segment,
    Settings, Share, StagedFile, Tmpfs, Ulimit, Volume, WindowSize, WriteFile,
};

/// Decodes frames until one is refused. Returns whether all are accepted.
pub fn run(data: &[u8]) -> bool {
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER_SIZE>() {
        let Ok(header) = Header::decode(*head) else { return false };
        let Some((payload, behind)) = behind.split_at_checked(header.length) else { return false };
        let is_accepted = accepts::<Control>(&header, payload)
            || accepts::<Request>(&header, payload)
            || accepts::<Input>(&header, payload)
            || accepts::<Segment>(&header, payload)
            || accepts::<Datagram>(&header, payload);
        if !is_accepted {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// The kind of the request whose payload is a container.
const ATTACH: u16 = 0x21;

/// Decodes one payload. Each message has one encoding.
fn accepts<M: Message>(header: &Header, payload: &[u8]) -> bool {
    let Ok(message) = M::decode(header.kind, payload) else { return false };
    if header.kind == ATTACH
        && let Ok(container) = Container::decode(payload)
    {
        assert_eq!(container.encode(), payload);
    }
    assert_eq!(message.kind(), header.kind);
    assert_eq!(&message.to_frame()[HEADER_SIZE..], payload);
    true
}

/// A network in which every field differs from its neighbours.
#[must_use]
pub fn sample_network() -> Network {
    Network {
        slot: 15,
        mtu: 1500,
        ipv4: [198, 18, 0, 2],
        ipv4_prefix: 24,
        ipv4_gateway: [198, 18, 0, 1],
        ipv6: [0xfd; 16],
        ipv6_prefix: 64,
        ipv6_gateway: [0xfe; 16],
    }
}

/// A share in which every field differs from its neighbours.
#[must_use]
pub fn sample_share() -> Share {
    Share { slot: 7, tag: "sm-7".into(), target: b"/project".to_vec(), read_only: true }
}

/// A volume in which every field differs from its neighbours.
#[must_use]
pub fn sample_volume() -> Volume {
    Volume { slot: 3, target: b"/data".to_vec(), read_only: true }
}

/// A container in which every part is set.
fn sample_container() -> Container {
    let entrypoint = Process {
        argv: vec![b"nginx".to_vec(), b"-g".to_vec()],
        env: vec![b"PATH=/bin".to_vec()],
        cwd: b"/srv".to_vec(),
        user: "101:101".into(),
    };
    Container {
        slots: vec![2, 3],
        root_device: "pmem0".into(),
        hostname: "web".into(),
        entrypoint,
        after_restore: AfterRestore {
            action: Some(Action::Exec(vec![b"reseed".to_vec()])),
            timeout_ms: 30_000,
        },
        settings: Settings {
            read_only: true,
            tmpfs: vec![Tmpfs { path: b"/run".to_vec(), flags: 6, data: "size=1m".into() }],
            shm_size: Some(1 << 20),
            ulimits: vec![Ulimit { resource: 7, soft: 64, hard: 128 }],
            volumes: vec![b"/data".to_vec()],
        },
        stop_signal: 3,
        readiness: Readiness::Answers(vec![b"ping".to_vec()]),
    }
}

/// Valid streams.
pub fn samples() -> Vec<Vec<u8>> {
    let network = sample_network();
    let resume = |hostname: Option<String>| {
        let network = hostname.is_none().then_some(network);
        let entropy = [7; ENTROPY_SIZE];
        let (shares, volumes) = (Vec::new(), Vec::new());
        let resume = Resume { realtime_ns: 1, entropy, hostname, network, shares, volumes };
        Control::Resume(resume).to_frame()
    };
    let shared = Resume {
        realtime_ns: 1,
        entropy: [7; ENTROPY_SIZE],
        hostname: None,
        network: Some(network),
        shares: vec![sample_share()],
        volumes: Vec::new(),
    };
    let stored = Control::Resume(Resume { volumes: vec![sample_volume()], ..shared.clone() });
    let shared = Control::Resume(shared);
    let size = WindowSize { rows: 24, columns: 80 };
    let command = Command {
        argv: vec![b"/bin/echo".to_vec()],
        env: vec![b"A=1".to_vec()],
        env_clear: true,
        cwd: Some(b"/tmp".to_vec()),
        user: Some("nobody".into()),
        timeout_ms: 30_000,
        stdin: true,
        terminal: Some(size),
        files: vec![StagedFile { path: b"/x".to_vec(), mode: 0o644, content: b"y".to_vec() }],
        chain: vec![vec![b"true".to_vec()]],
        ulimits: vec![Ulimit { resource: 7, soft: 64, hard: 64 }],
    };
    let mut exec = Request::Exec(command).to_frame();
    for input in [
        Input::Data(b"in".to_vec()),
        Input::Signal(15),
        Input::Resize(size),
        Input::Flow { output: Output::Stderr, flow: Flow::Paused },
        Input::DataEnd,
    ] {
        exec.extend(input.to_frame());
    }
    let path = b"/etc/x".to_vec();
    let file = WriteFile {
        path: path.clone(),
        mode: Some(0o640),
        owner: Some("nobody".into()),
        append: true,
    };
    let mut connect = Request::Connect { port: 80, framed: true }.to_frame();
    for segment in [Segment::Data(b"in".to_vec()), Segment::End] {
        connect.extend(segment.to_frame());
    }
    let mut datagrams = Request::Datagrams { port: 53 }.to_frame();
    for length in [3, 0] {
        datagrams.extend(Datagram(vec![7; length]).to_frame());
    }
    let others = [
        Request::WriteFile(file),
        Request::ReadFile { path: path.clone() },
        Request::CopyIn { path: path.clone() },
        Request::CopyOut { path },
        Request::WaitEntrypoint,
        Request::Memory,
        Request::Start,
        Request::Listening,
        Request::Logs { follow: true },
        Request::SignalEntrypoint { signal: 15 },
        Request::Settle,
        Request::Listen { port: 0 },
        Request::Accept { connection: 7 },
    ];
    vec![
        resume(None),
        shared.to_frame(),
        stored.to_frame(),
        resume(Some("web".into())),
        Request::Attach(sample_container().encode()).to_frame(),
        exec,
        connect,
        datagrams,
        others.iter().flat_map(Message::to_frame).collect(),
    ]
}
