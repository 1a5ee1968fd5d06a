//! Connections of the guest to the name server: questions and answers, each behind its length.
//!
//! They end in the stack. Memory is bounded: connections by [`MOST`], their bytes by the buffers of
//! their sockets, one incomplete question, and the answers to [`AHEAD`] questions.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mio::Token;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};

use super::tcp::{Context, Key, Next, accept, is_over};
use crate::dns::{LENGTH, first_message, framed};

/// Connections at once. More are refused.
const MOST: usize = 32;
/// Questions that wait for an answer before the next is read.
const AHEAD: usize = 16;
/// The buffer of each direction.
const BUFFER: usize = 16 << 10;
/// The longest question.
const MAX_QUESTION: usize = 4096;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);

/// A connection.
struct Stream {
    key: Key,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The bytes of the guest up to the end of a question.
    inbox: Vec<u8>,
    /// The bytes for the guest that the socket has no room for.
    outbox: Vec<u8>,
    /// Questions that were not answered yet.
    waiting: usize,
    /// When it has been idle for too long.
    end: Instant,
    /// When smoltcp has something to do.
    deadline: Option<Instant>,
}

/// All connections to the name server.
#[derive(Default)]
pub(super) struct Streams {
    streams: BTreeMap<Token, Stream>,
    stream_of: HashMap<Key, Token>,
}

/// Questions of a connection, in their order.
pub(super) type Asked = Vec<Vec<u8>>;

impl Streams {
    /// The connection between two addresses.
    pub(super) fn find(&self, key: &Key) -> Option<Token> {
        self.stream_of.get(key).copied()
    }

    /// Accepts the connection that a packet asks for. One too many is reset.
    pub(super) fn begin(
        &mut self,
        token: Token,
        key: Key,
        request: &[u8],
        context: &mut Context<'_>,
    ) {
        if self.streams.len() >= MOST {
            // Nothing accepts it.
            context.poll(&mut SocketSet::new(Vec::new()), Some(request));
            return;
        }
        let Some((sockets, handle)) = accept(key.1, request, BUFFER, context) else { return };
        let stream = Stream {
            key,
            sockets,
            handle,
            inbox: Vec::new(),
            outbox: Vec::new(),
            waiting: 0,
            end: Instant::now() + IDLE,
            deadline: None,
        };
        self.streams.insert(token, stream);
        self.stream_of.insert(key, token);
        // There is nothing to read yet, but an answer to send again if it gets lost.
        self.advance(token, None, context);
    }

    /// Takes a packet of the guest. Returns the questions that are whole now.
    pub(super) fn take(&mut self, token: Token, packet: &[u8], context: &mut Context<'_>) -> Asked {
        self.advance(token, Some(packet), context)
    }

    /// Takes the answer to a question. Returns further questions.
    pub(super) fn answer(
        &mut self,
        token: Token,
        message: &[u8],
        context: &mut Context<'_>,
    ) -> Asked {
        // The connection may have ended meanwhile.
        let Some(stream) = self.streams.get_mut(&token) else { return Asked::new() };
        stream.waiting = stream.waiting.saturating_sub(1);
        stream.outbox.extend(framed(message).unwrap_or_default());
        self.advance(token, None, context)
    }

    /// Resets a connection: what came over it is no question.
    pub(super) fn fail(&mut self, token: Token, context: &mut Context<'_>) -> Asked {
        if let Some(stream) = self.streams.get_mut(&token) {
            stream.abort();
        }
        self.advance(token, None, context)
    }

    /// Serves what is due, and resets connections that are idle for too long. Returns when to look again.
    pub(super) fn pass_time(&mut self, now: Instant, context: &mut Context<'_>) -> Option<Instant> {
        let due = self.streams.iter().filter(|(_, stream)| stream.next() <= now);
        let due: Vec<_> = due.map(|(token, _)| *token).collect();
        for token in due {
            if let Some(stream) = self.streams.get_mut(&token).filter(|stream| stream.end <= now) {
                stream.abort();
            }
            // What it returns needs bytes of the guest, and those come with a packet.
            self.advance(token, None, context);
        }
        self.streams.values().map(Stream::next).min()
    }

    /// Forgets every connection.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
        self.stream_of.clear();
    }

    fn advance(&mut self, token: Token, packet: Option<&[u8]>, context: &mut Context<'_>) -> Asked {
        let Some(stream) = self.streams.get_mut(&token) else { return Asked::new() };
        let (asked, next) = stream.advance(packet, context);
        if next == Next::Remove {
            let key = stream.key;
            self.streams.remove(&token);
            self.stream_of.remove(&key);
        }
        asked
    }
}

impl Stream {
    fn next(&self) -> Instant {
        self.deadline.map_or(self.end, |deadline| deadline.min(self.end))
    }

    /// Resets the connection. What it has asked already is not read any more.
    fn abort(&mut self) {
        self.inbox.clear();
        self.sockets.get_mut::<Socket<'_>>(self.handle).abort();
    }

    fn advance(&mut self, packet: Option<&[u8]>, context: &mut Context<'_>) -> (Asked, Next) {
        context.poll(&mut self.sockets, packet);
        let mut asked = Asked::new();
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        while self.waiting < AHEAD {
            if let Some(question) = first_message(&self.inbox).map(<[u8]>::to_vec) {
                self.inbox.drain(..LENGTH + question.len());
                self.waiting += 1;
                asked.push(question);
                continue;
            }
            let room = (LENGTH + MAX_QUESTION).saturating_sub(self.inbox.len());
            let inbox = &mut self.inbox;
            let taken = socket.recv(|bytes| {
                let count = bytes.len().min(room);
                inbox.extend(bytes.split_at(count).0);
                (count, count)
            });
            match taken {
                Ok(0) if room == 0 => socket.abort(),
                Ok(count) if count > 0 => continue,
                _ => {}
            }
            break;
        }
        let sent = socket.send_slice(&self.outbox).unwrap_or(0);
        self.outbox.drain(..sent);
        let has_ended = matches!(socket.state(), State::CloseWait) && !socket.can_recv();
        if has_ended && self.waiting == 0 && self.outbox.is_empty() {
            socket.close();
        }
        if sent > 0 || !asked.is_empty() {
            self.end = Instant::now() + IDLE;
        }
        context.poll(&mut self.sockets, None);
        self.deadline = context.deadline(&self.sockets);
        let is_over = is_over(self.sockets.get(self.handle));
        (asked, if is_over { Next::Remove } else { Next::Continue })
    }
}
