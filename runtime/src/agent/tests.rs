//! An agent that breaks the protocol, or is gone.

use std::io::{Cursor, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use supermachine_formats::codec::DecodeError;
use supermachine_formats::wire::{
    Event, ExitStatus, Failure, HEADER_SIZE, MAX_CHUNK, MAX_PAYLOAD, Message, Reply, VERSION,
};

use super::replies::read_message;
use super::resume;
use crate::Error;
use crate::error::ProtocolError;

fn read_reply(bytes: &[u8]) -> Result<Reply, Error> {
    read_message(&mut Cursor::new(bytes), None)
}

fn frame(length: u32, kind: u16, reserved: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(kind.to_le_bytes());
    frame.extend(reserved.to_le_bytes());
    frame.extend(payload);
    frame
}

fn protocol(result: Result<Reply, Error>) -> DecodeError {
    match result {
        Err(Error::Protocol { source: ProtocolError::Malformed { source } }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn replies_are_read_in_order() {
    let failure = Failure { operation: "execve".into(), subject: "/bin/none".into(), errno: 2 };
    let replies = [
        Reply::Started { pid: 7 },
        Reply::Stdout(b"out".to_vec()),
        Reply::Stderr(Vec::new()),
        Reply::Failed(failure),
        Reply::Done,
    ];
    let bytes: Vec<u8> = replies.iter().flat_map(Message::to_frame).collect();
    let mut stream = Cursor::new(bytes);
    for reply in replies {
        assert_eq!(read_message::<Reply>(&mut stream, None).unwrap(), reply);
    }
    let end = read_message::<Reply>(&mut stream, None);
    assert!(matches!(end, Err(Error::Protocol { source: ProtocolError::AgentGone })), "{end:?}");
}

#[test]
fn unknown_kind_breaks_the_protocol() {
    let error = protocol(read_reply(&frame(0, 0x7f, 0, b"")));
    assert!(matches!(error, DecodeError::Illegal { value: 0x7f, .. }), "{error}");
}

#[test]
fn message_of_the_other_direction_breaks_the_protocol() {
    let error = protocol(read_reply(&Event::Hello { version: VERSION }.to_frame()));
    assert!(matches!(error, DecodeError::Illegal { value: 0x11, .. }), "{error}");
}

#[test]
fn frame_over_the_limit_is_refused_before_it_is_read() {
    for length in [MAX_PAYLOAD as u32 + 1, u32::MAX] {
        let error = protocol(read_reply(&frame(length, 0x44, 0, b"")));
        assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn oversized_output_is_refused() {
    let error = protocol(read_reply(&Reply::Stdout(vec![0; MAX_CHUNK + 1]).to_frame()));
    assert!(matches!(error, DecodeError::TooLarge { field: "chunk", .. }), "{error}");
    assert!(read_reply(&Reply::Stdout(vec![0; MAX_CHUNK]).to_frame()).is_ok());
}

#[test]
fn nonzero_reserved_bytes_break_the_protocol() {
    let error = protocol(read_reply(&frame(0, 0x41, 1, b"")));
    assert!(matches!(error, DecodeError::Illegal { field: "frame reserved", .. }), "{error}");
}

#[test]
fn payload_of_the_wrong_length_breaks_the_protocol() {
    let exit = wire_exit().to_frame();
    let payload = &exit[HEADER_SIZE..];
    let short = u32::try_from(payload.len() - 1).unwrap();
    let error = protocol(read_reply(&frame(short, 0x46, 0, payload)));
    assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
    let mut longer = payload.to_vec();
    longer.push(0);
    let error = protocol(read_reply(&frame(short + 2, 0x46, 0, &longer)));
    assert!(matches!(error, DecodeError::Trailing { count: 1, .. }), "{error}");
}

fn wire_exit() -> Reply {
    let status = ExitStatus::Code(1);
    Reply::Exited(supermachine_formats::wire::Exit {
        status,
        timed_out: false,
        duration_us: 1,
        peak_rss_kib: 2,
    })
}

#[test]
fn stream_truncated_anywhere_means_the_agent_is_gone() {
    let frame = wire_exit().to_frame();
    for length in 0..frame.len() {
        let result = read_reply(&frame[..length]);
        assert!(
            matches!(result, Err(Error::Protocol { source: ProtocolError::AgentGone })),
            "{length}: {result:?}"
        );
    }
}

#[test]
fn silent_agent_is_an_error_with_the_limit() {
    let (mut ours, _theirs) = UnixStream::pair().unwrap();
    let limit = Duration::from_millis(20);
    ours.set_read_timeout(Some(limit)).unwrap();
    let result = read_message::<Reply>(&mut ours, Some(limit));
    assert!(matches!(result, Err(Error::Unanswered { limit: told }) if told == limit));
}

#[test]
fn frame_received_byte_by_byte_is_complete() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let sender = thread::spawn(move || {
        for byte in wire_exit().to_frame() {
            theirs.write_all(&[byte]).unwrap();
        }
    });
    assert_eq!(read_message::<Reply>(&mut ours, None).unwrap(), wire_exit());
    sender.join().unwrap();
}

#[test]
fn resume_message_has_fresh_entropy_and_the_current_time() {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let (first, second) = (resume(None).unwrap(), resume(Some("web")).unwrap());
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    assert_ne!(first.entropy, second.entropy);
    assert!((before..=after).contains(&first.realtime_ns.into()));
    assert_eq!((first.hostname, second.hostname.as_deref()), (None, Some("web")));
}
