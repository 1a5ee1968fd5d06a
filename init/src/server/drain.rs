//! Pipes that outlive their command: processes that it left behind still hold the other end.
//!
//! What they write goes nowhere. Were the pipes closed, their next line would kill them.

use super::slab::{Key, Slab};
use super::token::Token;
use crate::sys::fd::{Fd, read_now};
use crate::sys::poll::{Epoll, READABLE};
use crate::sys::{Errno, Result};

/// The pipes. See the module.
#[derive(Debug)]
pub(super) struct Drains(Slab<Fd>);

impl Drains {
    pub(super) fn new() -> Self {
        Self(Slab::new())
    }

    /// Reads a pipe from now on, until its last writer has closed it.
    pub(super) fn add(&mut self, pipe: Fd, epoll: &Epoll) {
        let key = self.0.reserve();
        let is_watched = watch(&pipe, epoll, Token::Drain(key)).is_ok();
        self.0.put(key, is_watched.then_some(pipe));
    }

    /// Reads what an event announced.
    pub(super) fn serve(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(pipe) = self.0.take(key) else { return };
        let is_open = match read_now(&pipe, scratch) {
            Ok(count) => count > 0,
            Err(errno) => matches!(errno, Errno::EAGAIN | Errno::EINTR),
        };
        self.0.put(key, is_open.then_some(pipe));
    }
}

/// The command's stream may have watched the pipe before.
fn watch(pipe: &Fd, epoll: &Epoll, token: Token) -> Result<()> {
    match epoll.add(pipe, READABLE, token.pack()) {
        Err(Errno::EEXIST) => epoll.modify(pipe, READABLE, token.pack()),
        other => other,
    }
}
