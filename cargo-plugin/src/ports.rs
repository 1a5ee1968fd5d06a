//! Published ports: addresses of the host that lead to ports of a machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use supermachine::{Forward, Vm};

use crate::error::Error;

const FORM: &str = "not GUEST, HOST:GUEST or ADDRESS:HOST:GUEST";

/// Ports to publish: `[[ADDRESS:]HOST[-LAST]:]GUEST[-LAST][/tcp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishSpec(pub(crate) Vec<Publish>);

/// A port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish {
    host: SocketAddr,
    guest: u16,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Port {
    pub(crate) host: SocketAddr,
    pub(crate) guest: u16,
}

impl FromStr for PublishSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        check_protocol(protocol)?;
        let Some((rest, guest)) = text.rsplit_once(':') else {
            if text.is_empty() || !text.starts_with(|first: char| first.is_ascii_digit()) {
                return Err(FORM.to_owned());
            }
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            return Ok(Self(
                guest_ports(text)?.map(|guest| Publish { host: any, guest }).collect(),
            ));
        };
        let guest = guest_ports(guest)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::from(Ipv4Addr::LOCALHOST), ports(rest)?),
            Some((address, "")) => (parse_address(address)?, 0..=0),
            Some((address, host)) => (parse_address(address)?, ports(host)?),
        };
        if host == (0..=0) {
            let host = SocketAddr::new(address, 0);
            return Ok(Self(guest.map(|guest| Publish { host, guest }).collect()));
        }
        if host.len() != guest.len() {
            return Err(format!(
                "{} ports of the host do not fit {} of the machine",
                host.len(),
                guest.len()
            ));
        }
        let pairs = host.zip(guest);
        Ok(Self(
            pairs.map(|(host, guest)| Publish { host: (address, host).into(), guest }).collect(),
        ))
    }
}

fn check_protocol(protocol: &str) -> Result<(), String> {
    match protocol {
        "tcp" => Ok(()),
        "udp" | "sctp" => Err(format!(
            "{protocol} ports cannot be published: that needs a network interface, and machines \
             have none; only TCP connections are passed on"
        )),
        other => Err(format!("{other:?} is not a protocol: only tcp ports can be published")),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let known = match bare {
        Some(bare) => bare.parse().map(IpAddr::V6).ok(),
        None => text.parse().map(IpAddr::V4).ok(),
    };
    known.ok_or_else(|| {
        let cure = match text {
            "localhost" => "use 127.0.0.1 or [::1]",
            _ if text.contains(':') => "write an IPv6 address in brackets, as [::1]",
            _ => "use the address of an interface, as 127.0.0.1 or [::1]",
        };
        format!("{text:?} is not an IP address: {cure}")
    })
}

fn guest_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = ports(text)?;
    if *range.start() == 0 { Err("the guest's port cannot be 0".into()) } else { Ok(range) }
}

/// Parses a port, or a range as `8000-8010`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
    match text.split_once('-').filter(|(first, _)| !first.is_empty()) {
        None => port(text).map(|port| port..=port),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if (1..=last).contains(&first) => Ok(first..=last),
            _ => Err(format!("{text:?} is not a range of ports, as 8000-8010")),
        },
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}->{}", self.host, self.guest)
    }
}

impl From<Port> for Publish {
    fn from(port: Port) -> Self {
        Self { host: port.host, guest: port.guest }
    }
}

/// Publishes all ports until the guards are dropped.
pub(crate) fn open(vm: &Vm, wanted: &[Publish]) -> Result<Vec<(Forward, Port)>, Error> {
    let open = |publish: &Publish| {
        let forward = vm.forward(publish.guest).bind(publish.host).listen()?;
        let port = Port { host: forward.local_addr(), guest: publish.guest };
        Ok((forward, port))
    };
    wanted.iter().map(open).collect()
}

/// All ports of several options.
pub(crate) fn all(specs: &[PublishSpec]) -> Vec<Publish> {
    specs.iter().flat_map(|spec| spec.0.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, u16)> {
        let spec: PublishSpec = text.parse().unwrap();
        spec.0.iter().map(|one| (one.host.to_string(), one.guest)).collect()
    }

    #[test]
    fn ports_parse_with_and_without_an_address() {
        assert_eq!(parsed("8080:80"), [("127.0.0.1:8080".into(), 80)]);
        assert_eq!(parsed("8080:80/tcp"), [("127.0.0.1:8080".into(), 80)]);
        assert_eq!(parsed("0:65535"), [("127.0.0.1:0".into(), 65535)]);
        assert_eq!(parsed("0.0.0.0:1:2"), [("0.0.0.0:1".into(), 2)]);
        assert_eq!(parsed("[::1]:8081:80"), [("[::1]:8081".into(), 80)]);
        for text in ["8080:80", "[::1]:1:2", "10.0.0.1:0:9"] {
            let spec: PublishSpec = text.parse().unwrap();
            assert_eq!(spec.0[0].to_string().parse::<PublishSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn port_of_the_guest_alone_gets_a_free_port_of_the_host() {
        assert_eq!(parsed("8080"), [("127.0.0.1:0".into(), 8080)]);
        assert_eq!(parsed("127.0.0.2::80"), [("127.0.0.2:0".into(), 80)]);
        assert_eq!(parsed("80-81"), [("127.0.0.1:0".into(), 80), ("127.0.0.1:0".into(), 81)]);
    }

    #[test]
    fn ranges_pair_up() {
        let pairs = [("127.0.0.1:8000".into(), 80), ("127.0.0.1:8001".into(), 81)];
        assert_eq!(parsed("8000-8001:80-81"), pairs);
        assert_eq!(parsed("[::1]:7-7:9"), [("[::1]:7".into(), 9)]);
    }

    #[test]
    fn invalid_ports_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "not GUEST, HOST:GUEST"),
            ("x", "not GUEST, HOST:GUEST"),
            ("80:", "\"\" is not a port"),
            (":80", "\"\" is not a port"),
            ("65536:80", "\"65536\""),
            ("80:-1", "\"-1\""),
            ("80:0", "cannot be 0"),
            ("0", "cannot be 0"),
            ("localhost:1:2", "\"localhost\" is not an IP address: use 127.0.0.1"),
            ("::1:80:80", "\"::1\" is not an IP address: write an IPv6 address in brackets"),
            ("[127.0.0.1]:1:2", "is not an IP address"),
            ("53:53/udp", "needs a network interface"),
            ("80:80/xyz", "\"xyz\" is not a protocol"),
            ("8000-8002:80-81", "3 ports of the host do not fit 2"),
            ("9-8:80", "\"9-8\" is not a range"),
        ] {
            let error = text.parse::<PublishSpec>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
