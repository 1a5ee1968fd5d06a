//! The agent's side of a stream, for tests that play it.

use std::io::Write;
use std::os::unix::net::UnixStream;

use supermachine_formats::wire::{Input, Message, Reply};

use super::replies::read_message;

/// Sends replies.
pub(crate) fn say(agent: &mut UnixStream, replies: &[Reply]) {
    for reply in replies {
        agent.write_all(&reply.to_frame()).unwrap();
    }
}

/// Waits for the next input.
pub(crate) fn hear(agent: &mut UnixStream) -> Input {
    read_message(agent, None).unwrap()
}
