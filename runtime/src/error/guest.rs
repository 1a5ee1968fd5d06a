//! Errors of the conversation with a guest.

use std::io;

use supermachine_formats::codec::DecodeError;

/// How the agent broke its protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The agent closed a stream without an answer.
    #[error("the guest's agent closed the stream before it answered")]
    AgentGone,
    /// The agent sent bytes that are no message.
    #[error("the guest's agent broke the protocol")]
    Malformed {
        /// What is wrong with them.
        source: DecodeError,
    },
    /// The agent sent a message that the request does not allow.
    #[error("the guest's agent gave an unexpected reply to {request}")]
    UnexpectedReply {
        /// The request.
        request: &'static str,
    },
    /// The agent speaks another version of the protocol.
    #[error("the guest's agent speaks protocol version {found}, this build {supported}")]
    Version {
        /// The agent's.
        found: u16,
        /// This build's.
        supported: u16,
    },
}

/// Why bytes could not be passed between the guest and the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The writer for a command's output failed.
    #[error("the command's {stream} cannot be passed on")]
    Output {
        /// The command's stream.
        stream: &'static str,
        /// The writer's error.
        source: io::Error,
    },
    /// A command wrote more than the limit, and was killed.
    #[error(
        "the command wrote more than {limit} bytes to its {stream}; raise max_output, or read it as it comes"
    )]
    OutputTooLarge {
        /// The command's stream.
        stream: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The reader or writer of a copy failed.
    #[error("the copy cannot be {operation} on this side")]
    Copy {
        /// The operation.
        operation: &'static str,
        /// The reader's or writer's error.
        source: io::Error,
    },
}

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// An address or a socket file of the host cannot be listened on.
    #[error("cannot listen on {address}{}", listen_remedy(.address, .source))]
    Listen {
        /// The address or the path.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// A port of the guest cannot be connected to or listened on.
    #[error("the guest's port {port} cannot be used")]
    Guest {
        /// The port.
        port: u16,
        /// The guest's error, `ConnectionRefused` when nothing listens there.
        source: io::Error,
    },
    /// A forward closed because its machine has stopped.
    #[error("{address} is closed, as its machine has stopped")]
    Closed {
        /// The address, socket file or port of the guest that it served.
        address: String,
    },
}

/// What the user can do when an address cannot be listened on.
fn listen_remedy(address: &str, source: &io::Error) -> &'static str {
    let is_port = address.parse::<std::net::SocketAddr>().is_ok();
    match source.kind() {
        io::ErrorKind::AddrInUse if is_port => "; port 0 picks a free one",
        io::ErrorKind::PermissionDenied if is_port => "; ports over 1023 need no rights",
        _ => "",
    }
}
