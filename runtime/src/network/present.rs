//! The stack that serves a machine.

use std::io;
use std::os::unix::net::UnixDatagram;

use supermachine_formats::wire;
use supermachine_net::{Stack, StackStats, segment};
use supermachine_vmm::layout::NET_SLOT;

use super::Plug;
use crate::error::HostError;
use crate::{Error, VmConfig};

/// A machine's network, if it has one. Dropping it closes all flows.
#[derive(Debug, Default)]
pub(crate) struct Attached(Option<Stack>);

impl Attached {
    /// Starts the network that a configuration asks for.
    pub(crate) fn start(config: &VmConfig) -> Result<(Self, Option<Plug>), Error> {
        let Some(network) = config.network() else { return Ok((Self(None), None)) };
        let (stack, frames) = Stack::start(network).map_err(failed)?;
        Ok((Self(Some(stack)), Some(plug(frames))))
    }

    /// Closes all flows for the machine's next use.
    pub(crate) fn renew(&self) -> Result<Option<Plug>, Error> {
        self.0.as_ref().map(|stack| Ok(plug(stack.renew().map_err(failed)?))).transpose()
    }

    /// What the network has done.
    pub(crate) fn stats(&self) -> Option<StackStats> {
        self.0.as_ref().map(Stack::stats)
    }
}

fn plug(frames: UnixDatagram) -> Plug {
    let setup = wire::Network {
        slot: NET_SLOT,
        mtu: segment::MTU,
        ipv4: segment::GUEST_V4.octets(),
        ipv4_prefix: segment::PREFIX_V4,
        ipv4_gateway: segment::GATEWAY_V4.octets(),
        ipv6: segment::GUEST_V6.octets(),
        ipv6_prefix: segment::PREFIX_V6,
        ipv6_gateway: segment::GATEWAY_V6.octets(),
    };
    Plug { frames, setup }
}

fn failed(source: io::Error) -> Error {
    HostError::Network { source }.into()
}
