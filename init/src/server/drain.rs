//! Pipes that outlive their command because processes that it left behind hold the other end.
//!
//! Their output is discarded. If the pipes were closed, the next write would kill the processes.

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

    /// Reads and discards a pipe's output until its last writer closes it.
    pub(super) fn add(&mut self, pipe: Fd, epoll: &Epoll) {
        let key = self.0.reserve();
        let is_watched = watch(&pipe, epoll, Token::Drain(key)).is_ok();
        self.0.put(key, is_watched.then_some(pipe));
    }

    /// Handles an event: reads once.
    pub(super) fn serve(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(pipe) = self.0.take(key) else { return };
        let is_open = match read_now(&pipe, scratch) {
            Ok(count) => count > 0,
            Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
        };
        self.0.put(key, is_open.then_some(pipe));
    }
}

/// Registers the pipe. Its command may have registered it before.
fn watch(pipe: &Fd, epoll: &Epoll, token: Token) -> Result<()> {
    match epoll.add(pipe, READABLE, token.pack()) {
        Err(Errno::EXIST) => epoll.modify(pipe, READABLE, token.pack()),
        other => other,
    }
}
