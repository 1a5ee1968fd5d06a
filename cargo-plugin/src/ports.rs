//! Published ports: addresses of the host that lead to ports of a machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use supermachine::{Forward, UdpForward, Vm};

use crate::error::Error;

const FORM: &str = "not GUEST, HOST:GUEST or ADDRESS:HOST:GUEST";

/// Ports to publish: `[[ADDRESS:]HOST[-LAST]:]GUEST[-LAST][/tcp|/udp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublishSpec(pub(crate) Vec<Publish>);

/// A port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish {
    host: SocketAddr,
    guest: u16,
    protocol: Protocol,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Port {
    pub(crate) host: SocketAddr,
    pub(crate) guest: u16,
    /// Missing in labels of earlier versions, which published TCP ports alone.
    #[serde(default)]
    pub(crate) protocol: Protocol,
}

/// A port's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A port of a machine: `53`, `53/tcp` or `53/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestPort {
    number: u16,
    protocol: Protocol,
}

/// Keeps a port published until it is dropped.
#[derive(Debug)]
pub(crate) enum Guard {
    /// Serves connections.
    Tcp(#[expect(dead_code, reason = "held for its drop")] Forward),
    /// Serves datagrams.
    Udp(#[expect(dead_code, reason = "held for its drop")] UdpForward),
}

impl FromStr for PublishSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol: Protocol = protocol.parse()?;
        let Some((rest, guest)) = text.rsplit_once(':') else {
            if text.is_empty() || !text.starts_with(|first: char| first.is_ascii_digit()) {
                return Err(FORM.to_owned());
            }
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let publish = |guest| Publish { host: any, guest, protocol };
            return Ok(Self(guest_ports(text)?.map(publish).collect()));
        };
        let guest = guest_ports(guest)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::from(Ipv4Addr::LOCALHOST), ports(rest)?),
            Some((address, "")) => (parse_address(address)?, 0..=0),
            Some((address, host)) => (parse_address(address)?, ports(host)?),
        };
        if host == (0..=0) {
            let host = SocketAddr::new(address, 0);
            return Ok(Self(guest.map(|guest| Publish { host, guest, protocol }).collect()));
        }
        if host.len() != guest.len() {
            return Err(format!(
                "{} ports of the host do not fit {} of the machine",
                host.len(),
                guest.len()
            ));
        }
        let publish = |(host, guest)| Publish { host: (address, host).into(), guest, protocol };
        Ok(Self(host.zip(guest).map(publish).collect()))
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Err("sctp ports cannot be published: only tcp and udp are passed on".into()),
            other => Err(format!("{other:?} is not a protocol: use tcp or udp")),
        }
    }
}

impl FromStr for GuestPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        match (number.parse(), protocol.parse()) {
            (Ok(number), Ok(protocol)) => Ok(Self { number, protocol }),
            _ => Err("not a port, as 80, 80/tcp or 53/udp".into()),
        }
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

impl Port {
    /// The port of the machine.
    pub(crate) fn guest(&self) -> GuestPort {
        GuestPort { number: self.guest, protocol: self.protocol }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl std::fmt::Display for GuestPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.guest, self.protocol)
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}->{}", self.host, self.guest())
    }
}

impl From<Port> for Publish {
    fn from(port: Port) -> Self {
        Self { host: port.host, guest: port.guest, protocol: port.protocol }
    }
}

/// Publishes all ports until the guards are dropped.
pub(crate) fn open(vm: &Vm, wanted: &[Publish]) -> Result<Vec<(Guard, Port)>, Error> {
    let open = |&Publish { host, guest, protocol }: &Publish| {
        let (guard, host) = match protocol {
            Protocol::Tcp => {
                let forward = vm.forward(guest).bind(host).listen()?;
                let host = forward.local_addr();
                (Guard::Tcp(forward), host)
            }
            Protocol::Udp => {
                let forward = vm.expose_udp(host, guest)?;
                let host = forward.local_addr();
                (Guard::Udp(forward), host)
            }
        };
        Ok((guard, Port { host, guest, protocol }))
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
        for text in ["8080:80", "[::1]:1:2", "10.0.0.1:0:9", "53:53/udp", "[::1]:53-54:53-54/udp"] {
            let spec: PublishSpec = text.parse().unwrap();
            let again = spec.0.iter().map(|one| one.to_string().parse::<PublishSpec>().unwrap());
            assert_eq!(again.flat_map(|again| again.0).collect::<Vec<_>>(), spec.0);
        }
    }

    #[test]
    fn protocol_holds_for_every_port_and_every_form() {
        for (text, count) in [
            ("53/udp", 1),
            ("53-55/udp", 3),
            ("5353:53/udp", 1),
            ("0.0.0.0:5353:53/udp", 1),
            ("127.0.0.2::53/udp", 1),
            ("[::1]:60000-60002:60000-60002/udp", 3),
        ] {
            let udp: PublishSpec = text.parse().unwrap();
            assert!(udp.0.iter().all(|one| one.protocol == Protocol::Udp), "{text}");
            assert_eq!(udp.0.len(), count, "{text}");
            assert_eq!(parsed(text), parsed(text.strip_suffix("/udp").unwrap()), "{text}");
        }
        let tcp: PublishSpec = "5353:53".parse().unwrap();
        assert_eq!(tcp.0[0].protocol, Protocol::Tcp);
    }

    #[test]
    fn port_of_a_machine_parses_with_and_without_its_protocol() {
        let parsed = |text: &str| text.parse::<GuestPort>();
        assert_eq!(parsed("53"), parsed("53/tcp"));
        assert_ne!(parsed("53/udp"), parsed("53/tcp"));
        assert_eq!(parsed("53/udp").unwrap().to_string(), "53/udp");
        for text in ["", "/udp", "53/", "53/sctp", "x/udp", "53/udp/udp", "65536"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn port_without_a_protocol_in_a_label_is_a_tcp_port() {
        let port: Port = serde_json::from_str(r#"{"host":"127.0.0.1:8080","guest":80}"#).unwrap();
        assert_eq!(port.to_string(), "127.0.0.1:8080->80/tcp");
        let udp = Port { protocol: Protocol::Udp, ..port };
        let text = serde_json::to_string(&udp).unwrap();
        assert_eq!(text, r#"{"host":"127.0.0.1:8080","guest":80,"protocol":"udp"}"#);
        assert_eq!(serde_json::from_str::<Port>(&text).unwrap(), udp);
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
            ("53:53/sctp", "sctp ports cannot be published"),
            ("80:80/xyz", "\"xyz\" is not a protocol"),
            ("80:80/", "\"\" is not a protocol"),
            ("53:53/udp/tcp", "\"udp/tcp\" is not a protocol"),
            ("/udp", "not GUEST, HOST:GUEST"),
            ("8000-8002:80-81", "3 ports of the host do not fit 2"),
            ("9-8:80", "\"9-8\" is not a range"),
        ] {
            let error = text.parse::<PublishSpec>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
