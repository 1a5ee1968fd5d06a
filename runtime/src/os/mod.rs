//! The operating system's calls that the standard library lacks: sockets and their files, peers, and
//! descriptors. The only module with `unsafe` calls to the system.

mod address;
mod calls;
mod datagram;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod peer;
mod socket;
mod socket_file;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

pub(crate) use self::datagram::{Route, receive_from, report_destination, send_back};
#[cfg(test)]
pub(crate) use self::peer::Peer;
pub(crate) use self::peer::{
    MAX_DESCRIPTORS, is_trusted, peer, receive_with_descriptors, send_with_descriptors,
};
pub(crate) use self::socket::{
    connect, is_hung_up, outcome, receive, reset_on_close, send, send_at_once, shut_down_sending,
    widen_backlog, with_short_path,
};
pub(crate) use self::socket_file::SocketFile;
pub(crate) use self::system::close_inherited;
pub use self::system::inherit_nothing;
