//! The bytes of questions and answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::segment::DNS_PORT;

/// Identifier, flags and four counts.
const HEADER: usize = 12;
/// The longest name in bytes, with the lengths of its labels.
const MAX_NAME: usize = 255;
const RESPONSE: u16 = 0x8000;
const RECURSION_WANTED: u16 = 0x0100;
const RECURSION_DONE: u16 = 0x0080;
const OPCODE: u16 = 0x7800;
const INTERNET: u16 = 1;

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
pub(super) const NO_ERROR: u16 = 0;
pub(super) const SERVER_FAILURE: u16 = 2;
pub(super) const NO_SUCH_NAME: u16 = 3;

/// A message with one question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) id: u16,
    /// In lower case, without the last dot.
    pub(super) name: String,
    pub(super) kind: u16,
    /// The question's bytes.
    pub(super) bytes: Vec<u8>,
}

/// An address in an answer, and for how many seconds it may be used.
pub(super) type Address = (IpAddr, u32);

/// Reads a query. `None` if it is none, or has no plain question.
pub(super) fn read_query(message: &[u8]) -> Option<Question> {
    read_question(message, false)
}

/// Reads the response to a question; `None` if it answers another one. Returns the addresses in it.
pub(super) fn read_response(message: &[u8], id: u16, asked: &Question) -> Option<Vec<Address>> {
    let question = read_question(message, true)?;
    if question.id != id || question.name != asked.name || question.kind != asked.kind {
        return None;
    }
    let mut reader = Reader { message, at: HEADER + question.bytes.len() };
    let count = u16_at(message, 6)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        // A truncated response ends within a record.
        let Some((kind, seconds, data)) = reader.record() else { break };
        let address = match kind {
            A => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
            AAAA => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
            _ => None,
        };
        match (kind, address) {
            (A | AAAA, None) => return None,
            (_, Some(address)) => addresses.push((address, seconds)),
            _ => {}
        }
    }
    Some(addresses)
}

/// Whether a message is a query.
pub(crate) fn accepts_query(message: &[u8]) -> bool {
    read_query(message).is_some()
}

/// Whether a message is a response to a question for `good.test`, number 7.
pub(crate) fn accepts_response(message: &[u8]) -> bool {
    let asked = Question { id: 7, name: "good.test".to_owned(), kind: A, bytes: Vec::new() };
    read_response(message, asked.id, &asked).is_some()
}

/// A response to a question, with at most one address.
pub(super) fn response(question: &Question, code: u16, address: Option<IpAddr>) -> Vec<u8> {
    let flags = RESPONSE | RECURSION_WANTED | RECURSION_DONE | code;
    let mut out = Vec::with_capacity(HEADER + question.bytes.len() + 28);
    for word in [question.id, flags, 1, u16::from(address.is_some()), 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(&question.bytes);
    let Some(address) = address else { return out };
    let (kind, data) = match address {
        IpAddr::V4(v4) => (A, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
    };
    // The name is that of the question. Good for a minute.
    for word in [0xc00c, kind, INTERNET, 0, 60, u16::try_from(data.len()).unwrap_or(0)] {
        out.extend(word.to_be_bytes());
    }
    out.extend(data);
    out
}

/// The same message under another number.
pub(super) fn renumbered(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// The name servers in the text of a `resolv.conf`, or that of this host if it has none.
pub(crate) fn host_resolvers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let is_server = words.next() == Some("nameserver");
        let address = words.next()?.split('%').next()?.parse::<IpAddr>().ok()?;
        is_server.then_some(SocketAddr::from((address, DNS_PORT)))
    };
    let servers: Vec<_> = text.lines().filter_map(server).collect();
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()] } else { servers }
}

fn read_question(message: &[u8], is_response: bool) -> Option<Question> {
    let (id, flags, count) = (u16_at(message, 0)?, u16_at(message, 2)?, u16_at(message, 4)?);
    if (flags & RESPONSE != 0) != is_response || flags & OPCODE != 0 || count != 1 {
        return None;
    }
    let mut reader = Reader { message, at: HEADER };
    let name = reader.plain_name()?;
    let (kind, class) = (reader.u16()?, reader.u16()?);
    if class != INTERNET {
        return None;
    }
    Some(Question { id, name, kind, bytes: message.get(HEADER..reader.at)?.to_vec() })
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Reader { message, at }.u16()
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// A name that is written out, of characters that names have.
    fn plain_name(&mut self) -> Option<String> {
        let mut name = String::new();
        let start = self.at;
        loop {
            let length = self.u8()?;
            if length == 0 {
                return Some(name);
            }
            if length > 63 || self.at - start > MAX_NAME {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            for byte in self.bytes(length.into())? {
                if !byte.is_ascii_graphic() || *byte == b'.' {
                    return None;
                }
                name.push(byte.to_ascii_lowercase().into());
            }
        }
    }

    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.u8()? {
                0 => return Some(()),
                length @ ..=63 => drop(self.bytes(length.into())?),
                192.. => return self.u8().map(drop),
                _ => return None,
            }
        }
    }

    /// Kind, seconds and data of a record.
    fn record(&mut self) -> Option<(u16, u32, &'a [u8])> {
        self.skip_name()?;
        let (kind, _class, seconds) = (self.u16()?, self.u16()?, self.u32()?);
        let length = self.u16()?;
        Some((kind, seconds, self.bytes(length.into())?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::dns) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [id, RECURSION_WANTED, 1, 0, 0, 0] {
            out.extend(word.to_be_bytes());
        }
        for label in name.split('.').filter(|label| !label.is_empty()) {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend(label.bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        out
    }

    #[test]
    fn query_has_its_name_in_lower_case() {
        let question = read_query(&query(7, "WWW.Example.com", A)).unwrap();
        assert_eq!((question.id, question.name.as_str(), question.kind), (7, "www.example.com", A));
        assert_eq!(read_query(&query(7, "", A)).unwrap().name, "");
    }

    #[test]
    fn malformed_queries_are_none() {
        let good = query(7, "www.example.com", A);
        for length in 0..good.len() {
            assert_eq!(read_query(&good[..length]), None, "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read_query(&bytes)
        };
        // A response, another operation, two questions, a pointer, a long label, a dot, another class.
        for (at, byte) in
            [(2, 0x81), (2, 0x29), (5, 2), (12, 0xc0), (12, 64), (13, b'.'), (13, 0), (32, 3)]
        {
            assert_eq!(with(at, byte), None, "{at}");
        }
        assert_eq!(read_query(&query(1, &["a"; 200].join("."), A)), None);
    }

    #[test]
    fn response_has_the_addresses() {
        let question = read_query(&query(7, "a.org", A)).unwrap();
        let address = "1.2.3.4".parse().unwrap();
        let bytes = response(&question, NO_ERROR, Some(address));
        assert_eq!(read_response(&bytes, 7, &question), Some(vec![(address, 60)]));
        assert_eq!(read_response(&bytes, 8, &question), None, "another number");
        let other = read_query(&query(7, "b.org", A)).unwrap();
        assert_eq!(read_response(&bytes, 7, &other), None, "another name");
        let refused = response(&question, NO_SUCH_NAME, None);
        assert_eq!(read_response(&refused, 7, &question), Some(vec![]));
        for length in 0..bytes.len() {
            let _ = read_response(&bytes[..length], 7, &question);
        }
    }

    #[test]
    fn resolv_conf_lists_name_servers() {
        let text =
            "# nameserver 1.1.1.1\nsearch a.org\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n";
        let found: Vec<_> = host_resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fe80::1]:53"]);
        assert_eq!(host_resolvers("nameserver x\n")[0].to_string(), "127.0.0.1:53");
    }
}
