//! Headers: what they round-trip, and what is refused.

use super::header::{BLOCK, Header, HeaderError, Kind, pad};

fn entry() -> Header {
    Header {
        name: b"a/b".to_vec(),
        link: Vec::new(),
        kind: Kind::File,
        mode: 0o4755,
        uid: 1000,
        gid: 5,
        size: 3,
        time: (1_700_000_000, 0),
        device: (0, 0),
    }
}

/// Decodes what [`Header::encode`] wrote, with its records.
fn decode(bytes: &[u8]) -> Header {
    let header = |at: usize| Header::decode(bytes[at..at + BLOCK].try_into().unwrap()).unwrap();
    let first = header(0);
    if first.kind != Kind::Pax {
        assert_eq!(bytes.len(), BLOCK);
        return first;
    }
    let size = usize::try_from(first.size).unwrap();
    let records = &bytes[BLOCK..BLOCK + size];
    let mut second = header(BLOCK + size.next_multiple_of(BLOCK));
    assert!(second.apply(records));
    second
}

#[test]
fn headers_round_trip_whatever_their_size() {
    let device = Header { kind: Kind::Block, device: (8, 1), size: 0, ..entry() };
    let link = Header { kind: Kind::SymbolicLink, link: vec![b'l'; 300], size: 0, ..entry() };
    let long = Header { name: vec![b'n'; 99_999], ..entry() };
    let large = Header { size: 1 << 40, uid: u32::MAX, gid: 1 << 21, ..entry() };
    let past = Header { time: (-3601, 0), ..entry() };
    let future = Header { time: (1 << 40, 0), ..entry() };
    for header in [entry(), device, link, long, large, past, future] {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(decode(&bytes), header);
    }
}

#[test]
fn malformed_records_are_refused() {
    for records in [
        b"6 a=\n".as_slice(),
        b"x path=a\n",
        b"10 path=ab",
        b"99 path=a\n",
        b"9 path a\n",
        b"10 size=x\n",
        b"0 path=a\n",
    ] {
        assert!(!entry().apply(records), "{}", String::from_utf8_lossy(records));
    }
    let mut header = entry();
    assert!(header.apply(b"23 mtime=-1.2500000000\n12 other=ab\n"));
    assert_eq!(header.time, (-2, 750_000_000));
}

#[test]
fn malformed_headers_are_refused() {
    let mut bytes = Vec::new();
    entry().encode(&mut bytes);
    let block: [u8; BLOCK] = bytes.try_into().unwrap();
    // The last byte of the sum's field stands behind its end.
    for at in (0..BLOCK).filter(|at| *at != 155) {
        let mut bad = block;
        bad[at] = bad[at].wrapping_add(1);
        assert!(Header::decode(&bad).is_err(), "byte {at} does not count");
    }
    let mut unknown = entry();
    unknown.kind = Kind::File;
    let mut bytes = Vec::new();
    unknown.encode(&mut bytes);
    bytes[156] = b'S';
    // The sum is right again.
    let sum = u32::from(b'S' - b'0');
    let old = u32::from_str_radix(std::str::from_utf8(&bytes[148..154]).unwrap(), 8).unwrap();
    bytes[148..154].copy_from_slice(format!("{:06o}", old + sum).as_bytes());
    assert_eq!(Header::decode(bytes[..BLOCK].try_into().unwrap()), Err(HeaderError::Kind));
    let mut padded = vec![1; 513];
    pad(&mut padded);
    assert_eq!(padded.len(), 2 * BLOCK);
}
