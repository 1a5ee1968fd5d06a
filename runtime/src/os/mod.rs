//! The operating system's calls that the standard library lacks: sockets and their files, peers, and
//! descriptors. The only module with `unsafe` calls to the system.

mod datagram;
mod peer;
mod socket;
mod socket_file;

pub(crate) use self::datagram::{Route, receive_from, report_destination, send_back};
#[cfg(test)]
pub(crate) use self::peer::Peer;
pub use self::peer::inherit_nothing;
pub(crate) use self::peer::{
    MAX_DESCRIPTORS, close_inherited, is_trusted, peer, receive_with_descriptors,
    send_with_descriptors,
};
pub(crate) use self::socket::{
    connect, is_hung_up, outcome, receive, reset_on_close, send, send_at_once, shut_down_sending,
    widen_backlog, with_short_path,
};
pub(crate) use self::socket_file::SocketFile;
