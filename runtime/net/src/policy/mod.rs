//! What a guest may reach: ranges of addresses, and rules on top.

mod ranges;
mod rule;

pub(crate) use self::ranges::{can_be_reached, is_public};
pub use self::rule::{Rule, RuleError};

/// A protocol over IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
