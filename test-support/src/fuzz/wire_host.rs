//! The agent's messages as the host reads them; the agent is not trusted.

use supermachine_formats::wire::{
    Datagram, Event, Exit, ExitStatus, Failure, HEADER_SIZE, Header, Memory, Message, Reply,
    VERSION,
};

/// Decodes frames until one is refused. Returns whether all are accepted.
pub fn run(data: &[u8]) -> bool {
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER_SIZE>() {
        let Ok(header) = Header::decode(*head) else { return false };
        let Some((payload, behind)) = behind.split_at_checked(header.length) else { return false };
        let is_accepted = accepts::<Event>(&header, payload)
            || accepts::<Reply>(&header, payload)
            || accepts::<Datagram>(&header, payload);
        if !is_accepted {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// Decodes one payload. Each message has one encoding.
fn accepts<M: Message>(header: &Header, payload: &[u8]) -> bool {
    let Ok(message) = M::decode(header.kind, payload) else { return false };
    assert_eq!(message.kind(), header.kind);
    assert_eq!(&message.to_frame()[HEADER_SIZE..], payload);
    true
}

/// Valid streams.
pub fn samples() -> Vec<Vec<u8>> {
    let failure = Failure { operation: "mount".into(), subject: "/dev/pmem0".into(), errno: 22 };
    let exit =
        |status| Reply::Exited(Exit { status, timed_out: false, duration_us: 5, peak_rss_kib: 6 });
    let control: Vec<u8> =
        [Event::Hello { version: VERSION }, Event::Resumed, Event::ResumeFailed(failure.clone())]
            .iter()
            .flat_map(Message::to_frame)
            .collect();
    let exec = [
        Reply::Started { pid: 42 },
        Reply::Stdout(b"out".to_vec()),
        Reply::Stderr(b"err".to_vec()),
        Reply::StdinTaken(131_072),
        Reply::StdinClosed,
        exit(ExitStatus::Code(3)),
        exit(ExitStatus::Signal(9)),
    ];
    let others = [
        Reply::Done,
        Reply::Failed(failure),
        Reply::Ports(vec![80, 443]),
        Reply::Memory(Memory { total_kib: 100, available_kib: 50 }),
        Reply::Data(b"file".to_vec()),
        Reply::Connected,
        Reply::Listens { port: 80 },
        Reply::Accepted { connection: 7 },
    ];
    let frames = |replies: &[Reply]| replies.iter().flat_map(Message::to_frame).collect();
    let mut datagrams = Reply::Connected.to_frame();
    for length in [3, 0] {
        datagrams.extend(Datagram(vec![7; length]).to_frame());
    }
    vec![control, frames(&exec), frames(&others), datagrams]
}
