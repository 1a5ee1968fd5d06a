//! One thing that a guest may reach, in words.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Protocol;
use super::ranges::contains;

/// The longest name that DNS has, as text.
const MAX_NAME: usize = 253;

/// One thing that a guest may reach: `[tcp:|udp:]DESTINATION[:PORT[-PORT]]`.
///
/// | destination | what it is |
/// |---|---|
/// | `api.example.com` | this name, and the addresses that it resolves to |
/// | `*.example.com` | every name below `example.com`, but not `example.com` itself |
/// | `10.1.0.0/16`, `192.0.2.7`, `[2001:db8::]/32` | these addresses |
/// | `host` | the host's loopback address, as `host.supermachine.internal`; needs a port |
///
/// A rule without a protocol is for both, one without a port for all of them.
///
/// ```
/// use supermachine_net::Rule;
///
/// let rule: Rule = "tcp:*.debian.org:80".parse()?;
/// assert_eq!(rule.to_string(), "tcp:*.debian.org:80");
/// assert!("host".parse::<Rule>().is_err());
/// # Ok::<(), supermachine_net::RuleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    protocol: Option<Protocol>,
    destination: Destination,
    ports: Option<RangeInclusive<u16>>,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Destination {
    /// A name, in lower case.
    Name(String),
    /// The names below this one.
    Below(String),
    /// A range of addresses.
    Range(IpAddr, u8),
    /// The host's loopback address.
    Host,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The port is not a number from 1 to 65535, or the range is empty.
    #[error("{text:?} is not a port or a range of ports, such as 443 or 8000-8010")]
    Port {
        /// The text.
        text: String,
    },
    /// The address, name or prefix is malformed.
    #[error(
        "{text:?} is not a destination: use a name (example.com, *.example.com), an address or a \
         range of addresses (10.0.0.0/8, [fd00::]/8), or `host` with a port (host:5432)"
    )]
    Destination {
        /// The text.
        text: String,
    },
    /// A range whose address has bits beyond its prefix.
    #[error("{text:?} has bits beyond its prefix")]
    Prefix {
        /// The text.
        text: String,
    },
    /// The host's loopback address without a port.
    #[error("`host` needs a port, such as host:5432")]
    HostWithoutPort,
}

impl Rule {
    /// Whether the rule is for this protocol and port.
    pub(crate) fn fits(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
            && self.ports.as_ref().is_none_or(|own| own.contains(&port))
    }

    /// Whether the rule is for the host's loopback address.
    pub(crate) fn is_host(&self) -> bool {
        self.destination == Destination::Host
    }

    /// Whether the rule has this address in a range.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        match self.destination {
            Destination::Range(start, length) => contains((start, length), address),
            _ => false,
        }
    }

    /// Whether the rule is for this name, which is in lower case.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        match &self.destination {
            Destination::Name(own) => own == name,
            Destination::Below(parent) => name
                .strip_suffix(parent.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            Destination::Range(..) | Destination::Host => false,
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (protocol, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            _ => (None, text),
        };
        let (destination, ports) = split_port(rest);
        let ports = ports.map(parse_ports).transpose()?;
        let destination = Destination::parse(destination)?;
        if destination == Destination::Host && ports.is_none() {
            return Err(RuleError::HostWithoutPort);
        }
        Ok(Self { protocol, destination, ports })
    }
}

/// Splits off what is behind the last colon, unless that is within an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((before, _)) if before.contains(':') && !before.contains(']') => (text, None),
        Some((before, ports)) if !ports.contains(']') => (before, Some(ports)),
        _ => (text, None),
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, RuleError> {
    let bad = || RuleError::Port { text: text.to_owned() };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad);
    let (first, last) = (number(first)?, number(last)?);
    if first > last { Err(bad()) } else { Ok(first..=last) }
}

impl Destination {
    fn parse(text: &str) -> Result<Self, RuleError> {
        let bad = || RuleError::Destination { text: text.to_owned() };
        if text == "host" {
            return Ok(Self::Host);
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(address).parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(most);
            if length > most {
                return Err(bad());
            }
            let first = match address {
                IpAddr::V4(v4) => {
                    let mask = u32::MAX.checked_shl(u32::from(32 - length)).unwrap_or(0);
                    IpAddr::V4((u32::from(v4) & mask).into())
                }
                IpAddr::V6(v6) => {
                    let mask = u128::MAX.checked_shl(u32::from(128 - length)).unwrap_or(0);
                    IpAddr::V6((u128::from(v6) & mask).into())
                }
            };
            if first != address {
                return Err(RuleError::Prefix { text: text.to_owned() });
            }
            return Ok(Self::Range(address, length));
        }
        if length.is_some() || bare.is_some() {
            return Err(bad());
        }
        let name = text.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(parent) if is_name(parent) => Ok(Self::Below(parent.to_owned())),
            // A single word is more likely the name of another tool's network.
            None if is_name(&name) && name.contains('.') => Ok(Self::Name(name)),
            _ => Err(bad()),
        }
    }
}

/// Whether a text is a name that DNS can have, and not a number that a program reads as an address.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= MAX_NAME
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && !last.starts_with("0x")
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        match &self.destination {
            Destination::Name(name) => f.write_str(name)?,
            Destination::Below(parent) => write!(f, "*.{parent}")?,
            Destination::Range(address @ IpAddr::V4(_), 32) => write!(f, "{address}")?,
            Destination::Range(address @ IpAddr::V4(_), length) => write!(f, "{address}/{length}")?,
            Destination::Range(address, length) => write!(f, "[{address}]/{length}")?,
            Destination::Host => f.write_str("host")?,
        }
        match &self.ports {
            None => Ok(()),
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start()),
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_read_back_as_they_are_written() {
        for text in [
            "example.com",
            "*.example.com",
            "tcp:example.com:443",
            "udp:10.0.0.0/8:53",
            "192.0.2.7",
            "192.0.2.7:8000-8010",
            "[2001:db8::]/32",
            "tcp:[2001:db8::]/32:443",
            "host:5432",
            "tcp:host:1-65535",
            "0.0.0.0/0",
            "[::]/0",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        assert_eq!(rule("2001:db8::/32"), rule("[2001:db8::]/32"));
        assert_eq!(rule("fd00::1"), rule("[fd00::1]"));
        assert_eq!(rule("EXAMPLE.com"), rule("example.com"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "*",
            "*.",
            "tcp:",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "a:1-",
            "a:2-1",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "[10.0.0.0",
            "a..b",
            ".a",
            "a.",
            "a b",
            "*.*.a",
            "a.*.b",
            "example.com/8",
            "1.2.3",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[example.com]",
            "bridge",
            "localhost",
            "fd00::1/8",
            "[::]/129",
            "::1:80:90:",
            "udp:host",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text:?}");
        }
        assert_eq!("host".parse::<Rule>(), Err(RuleError::HostWithoutPort));
        let error = "10.0.0.1/8".parse::<Rule>().unwrap_err();
        assert_eq!(error.to_string(), "\"10.0.0.1/8\" has bits beyond its prefix");
    }

    #[test]
    fn wildcard_is_for_names_below() {
        let below = rule("*.example.com");
        assert!(below.has_name("a.example.com") && below.has_name("a.b.example.com"));
        for name in ["example.com", ".example.com", "badexample.com", "example.com.evil.org", ""] {
            assert!(!below.has_name(name), "{name}");
        }
        assert!(rule("example.com").has_name("example.com"));
        assert!(!rule("example.com").has_name("a.example.com"));
    }

    #[test]
    fn rule_fits_its_protocol_and_ports() {
        let one = rule("tcp:10.0.0.0/8:80-90");
        assert!(one.fits(Protocol::Tcp, 80) && one.fits(Protocol::Tcp, 90));
        assert!(!one.fits(Protocol::Tcp, 91) && !one.fits(Protocol::Udp, 80));
        assert!(one.has_address("10.255.0.1".parse().unwrap()));
        assert!(!one.has_address("11.0.0.1".parse().unwrap()));
        assert!(!one.has_address("::ffff:10.0.0.1".parse().unwrap()));
        assert!(rule("[::]/0").has_address("fd00::1".parse().unwrap()));
        assert!(!rule("[::]/0").has_address("10.0.0.1".parse().unwrap()));
    }
}
