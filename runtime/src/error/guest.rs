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
    /// The snapshot's agent is of a version without UDP ports.
    #[error("the snapshot's agent cannot serve the UDP port {port}; bake the image again")]
    NoUdp {
        /// The port.
        port: u16,
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

/// The prefix of a guest's failure that its console explains.
pub(super) fn cause(console: &str) -> &'static str {
    if out_of_memory(console).is_some() { "guest out of memory: " } else { "" }
}

/// The end of a console, as the end of a sentence.
pub(super) fn shown(console: &str) -> String {
    match console.trim() {
        "" => String::new(),
        console => format!("; its console ends with: {console}"),
    }
}

/// The line of a console that says that the guest failed for lack of memory. Programs that the kernel
/// killed for it do not count: the guest outlives them.
pub(crate) fn out_of_memory(console: &str) -> Option<&str> {
    console.lines().find(|line| {
        let has = |text| line.contains(text);
        let panicked = has("Kernel panic - not syncing")
            && (has("deadlocked on memory")
                || has("Out of memory")
                || has("out of memory")
                || has("panic_on_oom"));
        let agent = has("supermachine-init:")
            && (has("out of memory (errno 12)") || has("memory allocation of"));
        panicked || agent
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_that_ends_for_lack_of_memory_is_recognised() {
        for line in [
            "[   12.1] Kernel panic - not syncing: System is deadlocked on memory",
            "[   12.1] Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled",
            "[   12.1] Kernel panic - not syncing: Out of memory and no killable processes...",
            "supermachine-init: memory allocation of 65544 bytes failed",
            "supermachine-init: epoll_wait of  failed: out of memory (errno 12)",
        ] {
            let console = format!("[    0.1] Linux version 6.12\n{line}\n[   12.2] CPU: 0");
            assert_eq!(out_of_memory(&console), Some(line));
            assert_eq!(cause(&console), "guest out of memory: ");
        }
    }

    #[test]
    fn silent_console_is_not_mentioned() {
        assert_eq!(shown(" \n"), "");
        assert_eq!(shown("a\nb\n"), "; its console ends with: a\nb");
    }

    #[test]
    fn other_deaths_and_killed_programs_have_another_cause() {
        for console in [
            "",
            "[   12.1] Out of memory: Killed process 77 (python3) total-vm:1kB",
            "[   12.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009",
            "[   12.1] Out of memory: Killed process 77 (sh)\n[   13.0] reboot: Restarting system",
            "supermachine-init: the control stream ended",
        ] {
            assert_eq!(cause(console), "", "{console}");
        }
    }
}
