//! What takes outside bytes apart, for fuzz targets.

use crate::packet::{Content, Unreachable, answer_arp, read_frame, read_packet};
use crate::{dhcp, dns};

/// Takes a frame of a guest apart, and makes every answer to it. Returns whether it is one that has a
/// meaning.
#[must_use]
pub fn take_frame(bytes: &[u8]) -> bool {
    let Some((_, content)) = read_frame(bytes) else { return false };
    match content {
        Content::Arp(request) => answer_arp(request).is_some(),
        Content::Ip(bytes) => {
            let Some(packet) = read_packet(bytes) else { return false };
            for why in [Unreachable::Forbidden, Unreachable::NoWay, Unreachable::NoPort] {
                let error = packet.error(why);
                assert!(error.is_none_or(|error| read_packet(&error).is_some()));
            }
            let answer = packet.answer();
            assert!(answer.as_ref().is_none_or(|answer| read_packet(answer).is_some()));
            packet.segment().is_some() || packet.datagram().is_some() || answer.is_some()
        }
    }
}

/// Reads the message of a guest that asks for an address, and answers it.
#[must_use]
pub fn take_request(bytes: &[u8]) -> bool {
    let answer = dhcp::answer(bytes);
    assert!(answer.as_ref().is_none_or(|answer| read_packet(answer).is_some()));
    answer.is_some()
}

/// Reads a question of a guest.
#[must_use]
pub fn take_query(bytes: &[u8]) -> bool {
    dns::accepts_query(bytes)
}

/// Reads the answer of a name server to a question for `good.test`.
#[must_use]
pub fn take_response(bytes: &[u8]) -> bool {
    dns::accepts_response(bytes)
}
