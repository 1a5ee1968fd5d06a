//! What an event is about.

use super::exec::Role;
use super::slab::Key;
use crate::log;

/// What an event is about, packed into epoll's 64 bits: a kind, then a stream's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Control,
    Listener,
    Children,
    Entrypoint(log::Stream),
    Stream(Key),
    Pipe(Key, Role),
    Tcp(Key, Side),
    TcpListener(Key, Side),
    Udp(Key, Side),
    Drain(Key),
    Hook,
}

/// One of the two descriptors of a TCP connection, a listener or a UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Host = 0,
    Guest = 1,
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        let keyed = |kind: u64, key: Key| {
            kind << 56 | u64::from(key.generation) << 32 | u64::from(key.place)
        };
        match self {
            Self::Control => 1 << 56,
            Self::Listener => 2 << 56,
            Self::Children => 3 << 56,
            Self::Entrypoint(log::Stream::Out) => 4 << 56,
            Self::Entrypoint(log::Stream::Err) => 5 << 56,
            Self::Stream(key) => keyed(6, key),
            Self::Pipe(key, role) => keyed(6 + role as u64, key),
            Self::Tcp(key, side) => keyed(32 + side as u64, key),
            Self::TcpListener(key, side) => keyed(36 + side as u64, key),
            Self::Udp(key, side) => keyed(38 + side as u64, key),
            Self::Drain(key) => keyed(40, key),
            Self::Hook => 41 << 56,
        }
    }

    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let [p0, p1, p2, p3, g0, g1, g2, kind] = bits.to_le_bytes();
        let place = u32::from_le_bytes([p0, p1, p2, p3]);
        let key = Key { place, generation: u32::from_le_bytes([g0, g1, g2, 0]) };
        Some(match kind {
            1 => Self::Control,
            2 => Self::Listener,
            3 => Self::Children,
            4 => Self::Entrypoint(log::Stream::Out),
            5 => Self::Entrypoint(log::Stream::Err),
            6 => Self::Stream(key),
            7 => Self::Pipe(key, Role::Stdin),
            8 => Self::Pipe(key, Role::Stdout),
            9 => Self::Pipe(key, Role::Stderr),
            32 => Self::Tcp(key, Side::Host),
            33 => Self::Tcp(key, Side::Guest),
            36 => Self::TcpListener(key, Side::Host),
            37 => Self::TcpListener(key, Side::Guest),
            38 => Self::Udp(key, Side::Host),
            39 => Self::Udp(key, Side::Guest),
            40 => Self::Drain(key),
            41 => Self::Hook,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_packing() {
        let key = Key { place: 0x0102_0304, generation: 0x00FE_DCBA };
        let pipes = [Role::Stdin, Role::Stdout, Role::Stderr].map(|role| Token::Pipe(key, role));
        let others = [
            Token::Control,
            Token::Listener,
            Token::Children,
            Token::Entrypoint(log::Stream::Out),
            Token::Entrypoint(log::Stream::Err),
            Token::Stream(key),
            Token::Drain(key),
            Token::Hook,
        ];
        let sides = [Side::Host, Side::Guest];
        let tcp = sides.map(|side| Token::Tcp(key, side));
        let listeners = sides.map(|side| Token::TcpListener(key, side));
        let udp = sides.map(|side| Token::Udp(key, side));
        for token in pipes.into_iter().chain(others).chain(tcp).chain(listeners).chain(udp) {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
    }
}
