//! Questions to the name server over connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::guest::Guest;
use super::{query, started};
use crate::Network;
use crate::dns::{LENGTH, first_message};
use crate::segment::{GATEWAY_V4, GATEWAY_V6};

/// The address of `large.test`, in an answer of about this size.
const LARGE: usize = 40_000;

/// A name server that takes one question over each connection. Its first answers are the slowest.
fn name_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut answer).unwrap();
                thread::sleep(std::time::Duration::from_millis(40 / (number as u64 + 1)));
                let is_private = answer.windows(7).any(|word| word == b"private");
                let is_large = answer.windows(5).any(|word| word == b"large");
                answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(if is_private { [10, 0, 0, 1] } else { [9, 9, 9, 9] });
                if is_large {
                    answer[7] = 2;
                    answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
                    answer.extend(u16::try_from(LARGE).unwrap().to_be_bytes());
                    answer.extend(vec![7; LARGE]);
                }
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&length.to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            });
        }
    });
    address
}

fn framed(message: &[u8]) -> Vec<u8> {
    crate::dns::framed(message).unwrap()
}

/// A connection to the name server.
struct Asking {
    handle: SocketHandle,
    received: Vec<u8>,
}

impl Asking {
    fn connect(guest: &mut Guest, to: impl Into<SocketAddr>) -> Self {
        Self { handle: guest.connected(to.into()), received: Vec::new() }
    }

    fn ask(&self, guest: &mut Guest, name: &str) {
        guest.exchange(self.handle, &framed(&query(name)), 0);
    }

    /// The next answer.
    fn answer(&mut self, guest: &mut Guest) -> Vec<u8> {
        loop {
            if let Some(message) = first_message(&self.received).map(<[u8]>::to_vec) {
                self.received.drain(..LENGTH + message.len());
                return message;
            }
            self.received.extend(guest.exchange(self.handle, &[], 1));
        }
    }
}

fn code(answer: &[u8]) -> u8 {
    assert_eq!(answer[..2], [0x12, 0x34]);
    answer[3] & 15
}

#[test]
fn large_answer_arrives_over_a_connection() {
    let network = Network::public().with_resolvers([name_server()]);
    let (stack, mut guest) = started(&network);
    for gateway in [SocketAddr::from((GATEWAY_V4, 53)), (GATEWAY_V6, 53).into()] {
        let mut asking = Asking::connect(&mut guest, gateway);
        asking.ask(&mut guest, "large.test");
        let large = asking.answer(&mut guest);
        assert_eq!(code(&large), 0);
        assert!(large.len() > LARGE && large.ends_with(&[7; 100]), "{} bytes", large.len());
        // The guest ends first, as clients do.
        guest.socket(asking.handle).close();
        assert_eq!(guest.read_to_end(asking.handle), b"");
    }
    assert_eq!(stack.stats().sockets_opened, 2);
}

#[test]
fn policy_holds_over_connections_too() {
    let network = Network::none()
        .allow("good.test".parse().unwrap())
        .allow("private.test".parse().unwrap())
        .with_resolvers([name_server()]);
    let (stack, mut guest) = started(&network);
    let mut asking = Asking::connect(&mut guest, (GATEWAY_V4, 53));
    asking.ask(&mut guest, "evil.test");
    assert_eq!(code(&asking.answer(&mut guest)), 3);
    assert_eq!(stack.stats().sockets_opened, 0);
    asking.ask(&mut guest, "private.test");
    assert_eq!(code(&asking.answer(&mut guest)), 3, "an answer that leads to a private address");
    asking.ask(&mut guest, "good.test");
    let good = asking.answer(&mut guest);
    assert!(code(&good) == 0 && good.ends_with(&[9, 9, 9, 9]));
}

#[test]
fn every_question_of_many_is_answered() {
    const COUNT: usize = 100;
    let network =
        Network::none().allow("*.good.test".parse().unwrap()).with_resolvers([name_server()]);
    let (_stack, mut guest) = started(&network);
    let mut asking = Asking::connect(&mut guest, (GATEWAY_V4, 53));
    let name = |number: usize| match number % 3 {
        0 => format!("n{number}.good.test"),
        _ => format!("n{number}.evil.test"),
    };
    let questions: Vec<u8> = (0..COUNT).flat_map(|number| framed(&query(&name(number)))).collect();
    // Cut where no question ends.
    let (first, rest) = questions.split_at(777);
    for part in [first, rest] {
        asking.received.extend(guest.exchange(asking.handle, part, 0));
    }
    let codes: Vec<u8> = (0..COUNT).map(|_| code(&asking.answer(&mut guest))).collect();
    let count = |wanted: u8| codes.iter().filter(|code| **code == wanted).count();
    assert_eq!((count(0), count(3)), (COUNT.div_ceil(3), COUNT - COUNT.div_ceil(3)));
}

#[test]
fn server_without_connections_is_an_error() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_stack, mut guest) = started(&Network::public().with_resolvers([closed]));
    let mut asking = Asking::connect(&mut guest, (GATEWAY_V4, 53));
    asking.ask(&mut guest, "good.test");
    assert_eq!(code(&asking.answer(&mut guest)), 2);
}

#[test]
fn what_is_no_question_resets_the_connection() {
    let (_stack, mut guest) = started(&Network::public().with_resolvers([]));
    for bytes in [framed(b"nonsense"), vec![0xff; 6000], framed(&[])] {
        let handle = guest.connected((GATEWAY_V4, 53).into());
        guest.exchange(handle, &bytes, 0);
        guest.until("it is reset", |guest| {
            (guest.socket(handle).state() == State::Closed).then_some(())
        });
    }
}

#[test]
fn connections_beyond_the_limit_are_reset() {
    let (_stack, mut guest) = started(&Network::public().with_resolvers([]));
    let gateway = (GATEWAY_V4, 53).into();
    let held: Vec<_> = (0..32).map(|_| guest.connected(gateway)).collect();
    let refused = guest.connect(gateway);
    assert_eq!(guest.until("an answer", |guest| guest.settled(refused)), State::Closed);
    guest.socket(held[0]).abort();
    guest.connected(gateway);
}
