//! The network interface: addresses, routes, and the name server.
//!
//! Set up at each resume, before hooks and requests. What a snapshot has already is no error.

use alloc::format;
use core::ffi::CStr;

use supermachine_formats::wire::{Failure, Network};

use crate::connections;
use crate::failure::{OrFailure, failure};
use crate::place;
use crate::slot::probe;
use crate::sys::interface::{Address, Interface, RouteRequest};
use crate::sys::{Errno, fd};

/// The only interface besides the loopback one, so the kernel gives it this name.
const NAME: &[u8] = b"eth0";
/// The guest is alone with its router: nobody else has its address, and all is known.
const SETTINGS: [(&CStr, &[u8]); 3] = [
    (c"/proc/sys/net/ipv6/conf/eth0/accept_dad", b"0"),
    (c"/proc/sys/net/ipv6/conf/eth0/dad_transmits", b"0"),
    (c"/proc/sys/net/ipv6/conf/eth0/accept_ra", b"0"),
];
const RESOLV_CONF: &[u8] = b"/etc/resolv.conf";

/// Ends what a snapshot's network had open: its other ends are gone.
pub(crate) fn leave() {
    connections::reset_all();
}

/// Sets the interface up.
pub(crate) fn set_up(network: &Network) -> Result<(), Failure> {
    probe(network.slot)?;
    let interface = Interface::find(NAME).or_failure("find", "eth0")?;
    for (path, value) in SETTINGS {
        // An image's own settings may have turned IPv6 off.
        match fd::set(path, value) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failure("write", path.to_bytes(), errno)),
        }
    }
    let v4 = Address::V4(network.ipv4, network.ipv4_prefix);
    interface.set_mtu(network.mtu).or_failure("set mtu", "eth0")?;
    unless_there(interface.add(&v4)).or_failure("add address", "eth0")?;
    interface.set_up(true).or_failure("set up", "eth0")?;
    unless_there(interface.route(&RouteRequest::V4(network.ipv4_gateway)))
        .or_failure("add route", "eth0")?;
    let v6 = Address::V6(network.ipv6, network.ipv6_prefix);
    let gateway = RouteRequest::V6(network.ipv6_gateway);
    for added in [interface.add(&v6), interface.route(&gateway)] {
        match unless_there(added) {
            Ok(()) | Err(Errno::ACCESS | Errno::AFNOSUPPORT | Errno::NODEV) => {}
            Err(errno) => return Err(failure("set up IPv6", "eth0", errno)),
        }
    }
    Ok(())
}

/// Names the network's resolver to the container's programs.
pub(crate) fn write_resolver(network: &Network) -> Result<(), Failure> {
    let [a, b, c, d] = network.ipv4_gateway;
    place::write_file(RESOLV_CONF, format!("nameserver {a}.{b}.{c}.{d}\n").as_bytes())
}

/// Sets the interface down, as in a machine without a network.
pub(crate) fn set_down() -> Result<(), Failure> {
    match Interface::find(NAME).and_then(|interface| interface.set_up(false)) {
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(errno) => Err(failure("set down", "eth0", errno)),
    }
}

/// Takes what is there already for added.
fn unless_there(added: Result<(), Errno>) -> Result<(), Errno> {
    match added {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}
