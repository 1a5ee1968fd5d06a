//! The network of a machine: its host side stays in this process, wherever the machine is.

#[cfg(not(feature = "net"))]
mod absent;
#[cfg(feature = "net")]
mod present;

use std::os::unix::net::UnixDatagram;

use supermachine_formats::wire;

#[cfg(not(feature = "net"))]
pub(crate) use self::absent::Attached;
#[cfg(feature = "net")]
pub(crate) use self::present::Attached;

/// What a machine gets of its network.
#[derive(Debug)]
pub(crate) struct Plug {
    /// Where its interface sends frames.
    pub(crate) frames: UnixDatagram,
    /// What its agent sets up.
    pub(crate) setup: wire::Network,
}
