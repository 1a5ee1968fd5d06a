//! Frames, names and requests for an address as the network of a guest takes them apart; neither
//! guests nor name servers are trusted.

use supermachine_net::fuzzing::{take_frame, take_query, take_request, take_response};

/// The first byte says what the rest is.
pub fn run(data: &[u8]) -> bool {
    match data.split_first() {
        Some((0, frame)) => take_frame(frame),
        Some((1, query)) => take_query(query),
        Some((2, response)) => take_response(response),
        Some((3, request)) => take_request(request),
        _ => false,
    }
}

/// Frames that are answered or carried, a question and its answer, and a request for an address.
pub fn samples() -> Vec<Vec<u8>> {
    let ethernet = |kind: [u8; 2], packet: &[u8]| {
        [&[0][..], &[2, 0x73, 0x6d, 0, 0, 1, 2, 0x73, 0x6d, 0, 0, 2], &kind, packet].concat()
    };
    let arp = [
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0x73, 0x6d, 0, 0, 2, 198, 18, 0, 2][..],
        &[0, 0, 0, 0, 0, 0, 198, 18, 0, 1],
    ];
    let v6 = |protocol: u8, length: u8| {
        let mut head = vec![0x60, 0, 0, 0, 0, length, protocol, 64];
        for last in [2, 1] {
            head.extend([0xfd, 0x73, 0x6d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        head
    };
    let tcp = [0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    let udp = [0x10, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    let question = b"\x04good\x04test\x00\x00\x01\x00\x01";
    let query = [&[1, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], question].concat();
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 9, 9, 9, 9];
    let head = [2, 0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    let client = [&[1, 1, 6, 0, 1, 2, 3, 4][..], &[0; 20], &[2, 0x73, 0x6d, 0, 0, 2], &[0; 202]];
    let discover = [&[3][..], &client.concat(), &[99, 130, 83, 99, 53, 1, 1, 255]];
    vec![
        ethernet([8, 6], &arp.concat()),
        ethernet([0x86, 0xdd], &[v6(6, 20), tcp.to_vec()].concat()),
        ethernet([0x86, 0xdd], &[v6(17, 12), udp.to_vec()].concat()),
        query,
        [&head[..], question, &record].concat(),
        discover.concat(),
    ]
}
