//! Questions of the guest, on their way to a name server and back.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Registry, Token};

use super::message::{
    A, AAAA, NO_ERROR, NO_SUCH_NAME, Question, SERVER_FAILURE, read_query, read_response,
    renumbered, response,
};
use super::names::Names;
use super::upstream::Upstream;
use crate::network::{Decision, Network};
use crate::segment::{HOST_NAME, HOST_V4, HOST_V6};

/// Questions on their way. More are not answered, and the guest asks again.
const MOST_PENDING: usize = 256;
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The resolver of one guest.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    /// The name server that answers.
    present: usize,
    pending: HashMap<Token, Pending>,
    /// Draws numbers that nobody else can guess.
    random: RandomState,
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    question: Question,
    id: u16,
    upstream: Upstream,
    end: Instant,
}

/// How the guest asked, and gets its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    /// In a datagram.
    Datagram {
        /// The guest's address.
        guest: SocketAddr,
        /// The address that it asked.
        gateway: SocketAddr,
    },
    /// Over this connection.
    Connection(Token),
}

/// A message to the guest.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) asker: Asker,
    pub(crate) message: Vec<u8>,
}

impl Resolver {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, present: 0, pending: HashMap::new(), random: RandomState::new() }
    }

    /// Takes a question of the guest. Returns the answer if it needs no name server. One that is no
    /// question, or one too many, gets none.
    pub(crate) fn ask(
        &mut self,
        asker: Asker,
        message: &[u8],
        network: &Network,
        (registry, token): (&Registry, Token),
    ) -> Option<Answered> {
        let question = read_query(message)?;
        let answer = |message| Some(Answered { asker, message });
        if question.name == HOST_NAME {
            return answer(of_host(&question, network));
        }
        let is_allowed = network.may_resolve(&question.name);
        network.report(|| Decision::Lookup { name: question.name.clone(), is_allowed });
        if !is_allowed {
            return answer(response(&question, NO_SUCH_NAME, None));
        }
        if self.pending.len() >= MOST_PENDING {
            return None;
        }
        let id = self.number(token);
        match self.send(asker, &renumbered(message, id), (registry, token)) {
            Ok(upstream) => {
                let end = Instant::now() + PATIENCE;
                let pending = Pending { asker, question, id, upstream, end };
                self.pending.insert(token, pending);
                None
            }
            Err(_) => {
                self.pass_to_next();
                answer(response(&question, SERVER_FAILURE, None))
            }
        }
    }

    /// Whether this is the token of a question.
    pub(crate) fn has(&self, token: Token) -> bool {
        self.pending.contains_key(&token)
    }

    /// Reads what a name server sent. Returns the answer for the guest.
    pub(crate) fn ready(
        &mut self,
        token: Token,
        network: &Network,
        names: &mut Names,
    ) -> Option<Answered> {
        loop {
            let pending = self.pending.get_mut(&token)?;
            let asker = pending.asker;
            let answer = |message| Some(Answered { asker, message });
            let message = match pending.upstream.receive() {
                Ok(message) => message,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    let failed = answer(response(&pending.question, SERVER_FAILURE, None));
                    self.pending.remove(&token);
                    self.pass_to_next();
                    return failed;
                }
            };
            // Others are not answers to what was asked.
            let Some(addresses) = read_response(&message, pending.id, &pending.question) else {
                if let Asker::Datagram { .. } = asker {
                    continue;
                }
                // A connection carries one answer.
                let failed = answer(response(&pending.question, SERVER_FAILURE, None));
                self.pending.remove(&token);
                return failed;
            };
            let name = &pending.question.name;
            let hidden = addresses.iter().find(|(address, _)| !network.may_answer(*address));
            let answered = if let Some((address, _)) = hidden {
                let address = *address;
                network.report(|| Decision::Answer { name: name.clone(), address });
                answer(response(&pending.question, NO_SUCH_NAME, None))
            } else {
                let now = Instant::now();
                addresses.iter().for_each(|(ip, seconds)| names.tie(*ip, name, *seconds, now));
                answer(renumbered(&message, pending.question.id))
            };
            self.pending.remove(&token);
            return answered;
        }
    }

    /// Gives up questions that take too long. Returns when to look again.
    pub(crate) fn pass_time(&mut self, now: Instant) -> Option<Instant> {
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.end > now);
        if self.pending.len() < before {
            self.pass_to_next();
        }
        self.pending.values().map(|pending| pending.end).min()
    }

    /// Forgets every question.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }

    /// Sends a question on, in the way that the guest has asked.
    fn send(
        &self,
        asker: Asker,
        message: &[u8],
        registered: (&Registry, Token),
    ) -> io::Result<Upstream> {
        let server = *self.servers.get(self.present).ok_or(io::ErrorKind::NotFound)?;
        match asker {
            Asker::Datagram { .. } => Upstream::datagram(server, message, registered),
            Asker::Connection(_) => Upstream::connection(server, message, registered),
        }
    }

    fn pass_to_next(&mut self) {
        self.present = (self.present + 1) % self.servers.len().max(1);
    }

    fn number(&self, token: Token) -> u16 {
        let [a, b, ..] = self.random.hash_one(token.0).to_ne_bytes();
        u16::from_ne_bytes([a, b])
    }
}

/// The answer for the name of the host's loopback address.
fn of_host(question: &Question, network: &Network) -> Vec<u8> {
    if !network.has_host() {
        return response(question, NO_SUCH_NAME, None);
    }
    let address = match question.kind {
        A => Some(HOST_V4.into()),
        AAAA => Some(HOST_V6.into()),
        _ => None,
    };
    response(question, NO_ERROR, address)
}
