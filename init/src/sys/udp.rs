//! UDP over the loopback interface.

use rustix::net::{SocketFlags, SocketType};

use super::Result;
use super::fd::Fd;
use super::socket::socket;
use super::tcp::{Loopback, port};

/// A socket that exchanges datagrams with a port, and with nothing else. It succeeds whether or not
/// something listens there.
pub(crate) fn connect(to: Loopback, target: u16) -> Result<Fd> {
    let first = attempt(to, target)?;
    if port(&first)? != target {
        return Ok(first);
    }
    // The kernel gave it the very port that nobody listens on: it would receive what it sends. While
    // it is open, another one gets another port.
    attempt(to, target)
}

fn attempt(to: Loopback, target: u16) -> Result<Fd> {
    let socket = socket(to.family(), SocketType::DGRAM, SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &to.address(target))?;
    Ok(socket)
}
