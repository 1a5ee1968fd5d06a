//! One guest's flows: a thread that moves frames and bytes, and decides about each new flow.
//!
//! The guest's end of a flow is a TCP socket of smoltcp, the host's a socket of the host; a connection
//! of the guest is only accepted once that of the host is there, so that the guest finds out what it
//! would find out itself. Each flow has a set of sockets of its own: what it costs to serve one does
//! not depend on how many there are.
//!
//! Memory is bounded: flows by their number, their bytes by the buffers of their sockets, frames by the
//! length of one queue. A side that stops reading is not read from.

mod counters;
mod guest_link;
mod pace;
mod questions;
mod tcp;
#[cfg(test)]
mod tests;
mod thread;
mod udp;

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use self::counters::Counters;
pub use self::counters::StackStats;
use self::thread::{Command, Loop};
use crate::dns::host_resolvers;
use crate::network::Network;

const THREAD_NAME: &str = "sm-net";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The network of one guest. Dropping it closes all flows.
#[derive(Debug)]
pub struct Stack {
    commands: Sender<Command>,
    waker: mio::Waker,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Stack {
    /// Starts the network of a guest. Returns the end of the link that its interface gets: each
    /// datagram is an Ethernet frame, and TCP and UDP checksums of the guest's are ignored.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub fn start(network: &Network) -> io::Result<(Self, UnixDatagram)> {
        let (ours, theirs) = UnixDatagram::pair()?;
        let servers = match network.resolvers() {
            Some(servers) => servers.to_vec(),
            // A host without the file has its name server at its loopback address.
            None => host_resolvers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
        };
        let (commands, receiver) = channel();
        let counters = Arc::new(Counters::default());
        let (mut served, waker) =
            Loop::new(network.clone(), servers, ours, receiver, Arc::clone(&counters))?;
        let thread = Builder::new().name(THREAD_NAME.into()).spawn(move || served.run())?;
        Ok((Self { commands, waker, counters, thread: Some(thread) }, theirs))
    }

    /// Closes all flows, and returns the end of a new link. Nothing of the old one reaches it.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn renew(&self) -> io::Result<UnixDatagram> {
        let (ours, theirs) = UnixDatagram::pair()?;
        self.commands.send(Command::Renew(ours)).map_err(io::Error::other)?;
        self.waker.wake()?;
        Ok(theirs)
    }

    /// What the stack has done so far.
    #[must_use]
    pub fn stats(&self) -> StackStats {
        self.counters.stats()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // A thread that is gone needs no command.
        let _ = self.commands.send(Command::Stop);
        let _ = self.waker.wake();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
