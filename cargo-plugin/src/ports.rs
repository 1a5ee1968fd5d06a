//! Ports of a machine that are reachable at addresses of the host, as a command line names them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use supermachine::{Forward, Vm};

use crate::error::Error;

/// `[ADDRESS:]HOST:GUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish {
    host: SocketAddr,
    guest: u16,
}

/// An address of the host that leads to a port of the guest.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Port {
    pub(crate) host: SocketAddr,
    pub(crate) guest: u16,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "not HOST:GUEST or ADDRESS:HOST:GUEST";
        let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
        let (rest, guest) = text.rsplit_once(':').ok_or(FORM)?;
        let guest = port(guest)?;
        if guest == 0 {
            return Err("the guest's port cannot be 0".into());
        }
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::from(Ipv4Addr::LOCALHOST), rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let known = match bare {
                    Some(bare) => bare.parse().map(IpAddr::V6).ok(),
                    None => address.parse().map(IpAddr::V4).ok(),
                };
                (known.ok_or_else(|| format!("{address:?} is not an IP address"))?, host)
            }
        };
        Ok(Self { host: SocketAddr::new(address, port(host)?), guest })
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

/// Opens all of them, for as long as the guards live.
pub(crate) fn open(vm: &Vm, wanted: &[Publish]) -> Result<Vec<(Forward, Port)>, Error> {
    let open = |publish: &Publish| {
        let forward = vm.forward(publish.guest).bind(publish.host).listen()?;
        let port = Port { host: forward.local_addr(), guest: publish.guest };
        Ok((forward, port))
    };
    wanted.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_and_without_an_address() {
        let told = |text: &str| {
            let Publish { host, guest } = text.parse().unwrap();
            (host.to_string(), guest)
        };
        assert_eq!(told("8080:80"), ("127.0.0.1:8080".into(), 80));
        assert_eq!(told("0:65535"), ("127.0.0.1:0".into(), 65535));
        assert_eq!(told("0.0.0.0:1:2"), ("0.0.0.0:1".into(), 2));
        assert_eq!(told("[::1]:8080:80"), ("[::1]:8080".into(), 80));
        for text in ["8080:80", "[::1]:1:2", "10.0.0.1:0:9"] {
            let publish: Publish = text.parse().unwrap();
            assert_eq!(publish.to_string().parse::<Publish>().unwrap(), publish);
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_its_reason() {
        for (text, reason) in [
            ("80", "not HOST:GUEST"),
            ("", "not HOST:GUEST"),
            ("80:", "\"\" is not a port"),
            (":80", "\"\" is not a port"),
            ("65536:80", "\"65536\""),
            ("80:-1", "\"-1\""),
            ("80:0", "cannot be 0"),
            ("localhost:1:2", "\"localhost\" is not an IP address"),
            ("::1:80:80", "\"::1\" is not an IP address"),
            ("[127.0.0.1]:1:2", "is not an IP address"),
        ] {
            let error = text.parse::<Publish>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
