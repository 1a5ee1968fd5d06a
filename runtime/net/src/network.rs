//! What a guest may reach, and who learns about it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::policy::{Protocol, Rule, can_be_reached, is_public};
use crate::segment::{AddressOwner, owner_of};

/// Connections at once, unless [`Network::with_max_connections`] says otherwise.
const MAX_CONNECTIONS: usize = 2048;

/// What a guest may reach. Everything else is refused, and no socket is opened for it.
///
/// No network reaches the host's loopback interface, except for the ports that a [`Rule`] names; the
/// guest finds them at `host.supermachine.internal`.
///
/// ```
/// use supermachine_net::{Network, Protocol};
///
/// let public = Network::public();
/// assert!(public.allows(Protocol::Tcp, "1.1.1.1:443".parse()?));
/// assert!(!public.allows(Protocol::Tcp, "169.254.169.254:80".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    base: Base,
    rules: Vec<Rule>,
    resolvers: Option<Vec<SocketAddr>>,
    max_connections: usize,
    rate: Option<NonZeroU64>,
    max_bytes: Option<u64>,
    observer: Option<Observer>,
    redirects: Vec<(IpAddr, IpAddr)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Nothing,
    Public,
    All,
}

/// What was decided about something that a guest tried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// A connection, or the first datagram of a flow.
    Flow {
        /// The protocol.
        protocol: Protocol,
        /// Where it leads.
        to: SocketAddr,
        /// The names that the guest has resolved to this address.
        names: Vec<String>,
        /// Whether it is allowed.
        is_allowed: bool,
    },
    /// A question to the resolver.
    Lookup {
        /// The name.
        name: String,
        /// Whether it is answered.
        is_allowed: bool,
    },
    /// An answer that is withheld, as the name leads to an address that the guest may not reach.
    Answer {
        /// The name.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// The guest has used up its bytes. From here on everything is refused.
    Spent {
        /// The limit.
        bytes: u64,
    },
}

type Watch = dyn Fn(&Decision) + Send + Sync;

/// Two are equal if they are the same.
#[derive(Clone)]
struct Observer(Arc<Watch>);

impl Network {
    /// Nothing, until [`allow`](Self::allow) adds to it.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Base::Nothing)
    }

    /// The public internet: no private, link-local, shared or reserved addresses, and no cloud's
    /// metadata. Names that lead to such addresses do not resolve.
    #[must_use]
    pub fn public() -> Self {
        Self::new(Base::Public)
    }

    /// Whatever the host reaches, except for its loopback interface.
    #[must_use]
    pub fn all() -> Self {
        Self::new(Base::All)
    }

    fn new(base: Base) -> Self {
        Self {
            base,
            rules: Vec::new(),
            resolvers: None,
            max_connections: MAX_CONNECTIONS,
            rate: None,
            max_bytes: None,
            observer: None,
            redirects: Vec::new(),
        }
    }

    /// Allows what a rule says as well.
    #[must_use]
    pub fn allow(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Asks these name servers, in place of the host's.
    #[must_use]
    pub fn with_resolvers(mut self, resolvers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.resolvers = Some(resolvers.into_iter().collect());
        self
    }

    /// Limits the guest's connections at once. The default is 2048.
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Limits the bytes that pass in a second in each direction, headers included. Faster senders are held
    /// back. There is no limit by default.
    ///
    /// ```
    /// use std::num::NonZeroU64;
    /// use supermachine_net::Network;
    ///
    /// let network = Network::public().with_max_rate(NonZeroU64::new(1 << 20).unwrap());
    /// ```
    #[must_use]
    pub fn with_max_rate(mut self, bytes_per_second: NonZeroU64) -> Self {
        self.rate = Some(bytes_per_second);
        self
    }

    /// Limits the bytes that pass both ways together, headers included, until the machine stops or returns
    /// to its pool. At the limit, connections are reset and everything is refused. There is no limit by
    /// default.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Calls `observer` with each decision, on the thread that moves the guest's frames: it should not
    /// wait.
    #[must_use]
    pub fn on_decision(mut self, observer: impl Fn(&Decision) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer(Arc::new(observer)));
        self
    }

    /// Opens what is allowed to `from` to another address, for tests on hosts that only have a loopback
    /// interface.
    #[doc(hidden)]
    #[must_use]
    pub fn with_redirect(mut self, from: IpAddr, to: IpAddr) -> Self {
        self.redirects.push((from, to));
        self
    }

    /// Whether a guest may reach this address. An address may also be allowed because an allowed name
    /// resolves to it, which this does not know.
    #[must_use]
    pub fn allows(&self, protocol: Protocol, to: SocketAddr) -> bool {
        self.target(protocol, to, &[]).is_some()
    }

    /// The address to open a socket to; `None` if the guest may not reach this one. `names` are those
    /// that resolve to the address.
    pub(crate) fn target(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        names: &[String],
    ) -> Option<SocketAddr> {
        let (address, port) = (to.ip(), to.port());
        let mut fitting = self.rules.iter().filter(|rule| rule.fits(protocol, port));
        match owner_of(address) {
            AddressOwner::Host => {
                let is_allowed = fitting.any(Rule::is_host);
                is_allowed.then(|| (Ipv4Addr::LOCALHOST, port).into())
            }
            AddressOwner::Outside if port != 0 && can_be_reached(address) => {
                let is_open = is_public(address);
                let is_allowed = match self.base {
                    Base::All => true,
                    Base::Public if is_open => true,
                    Base::Public | Base::Nothing => fitting.any(|rule| {
                        rule.has_address(address)
                            || is_open && names.iter().any(|name| rule.has_name(name))
                    }),
                };
                is_allowed.then(|| (self.redirected(address), port).into())
            }
            _ => None,
        }
    }

    /// Whether the resolver answers for a name, which is in lower case.
    pub(crate) fn may_resolve(&self, name: &str) -> bool {
        self.base != Base::Nothing || self.rules.iter().any(|rule| rule.has_name(name))
    }

    /// Whether the resolver passes this address on.
    pub(crate) fn may_answer(&self, address: IpAddr) -> bool {
        owner_of(address) == AddressOwner::Outside
            && can_be_reached(address)
            && (self.base == Base::All
                || is_public(address)
                || self.rules.iter().any(|rule| rule.has_address(address)))
    }

    /// Whether the guest may reach something of the host's loopback interface.
    pub(crate) fn has_host(&self) -> bool {
        self.rules.iter().any(Rule::is_host)
    }

    pub(crate) fn resolvers(&self) -> Option<&[SocketAddr]> {
        self.resolvers.as_deref()
    }

    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections
    }

    pub(crate) fn rate(&self) -> Option<u64> {
        self.rate.map(NonZeroU64::get)
    }

    pub(crate) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// Passes a decision on to the one who watches.
    pub(crate) fn report(&self, decision: impl FnOnce() -> Decision) {
        if let Some(Observer(observer)) = &self.observer {
            observer(&decision());
        }
    }

    fn redirected(&self, address: IpAddr) -> IpAddr {
        let found = self.redirects.iter().find(|(from, _)| *from == address);
        found.map_or(address, |(_, to)| *to)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |is_allowed| if is_allowed { "allowed" } else { "refused" };
        match self {
            Self::Flow { protocol, to, names, is_allowed } => {
                write!(f, "{} {protocol} to {to}", verdict(*is_allowed))?;
                if names.is_empty() { Ok(()) } else { write!(f, " ({})", names.join(", ")) }
            }
            Self::Lookup { name, is_allowed } => {
                write!(f, "{} lookup of {name}", verdict(*is_allowed))
            }
            Self::Answer { name, address } => {
                write!(f, "refused answer for {name}, which leads to {address}")
            }
            Self::Spent { bytes } => {
                write!(f, "refused everything from here on: {bytes} bytes spent")
            }
        }
    }
}

impl PartialEq for Observer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Observer {}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{GATEWAY_V4, GUEST_V4, HOST_V4, HOST_V6};

    fn to(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn with(rules: &[&str]) -> Network {
        rules.iter().fold(Network::none(), |network, rule| network.allow(rule.parse().unwrap()))
    }

    #[test]
    fn nothing_is_allowed_unless_said() {
        for text in ["1.1.1.1:443", "10.0.0.1:80", "127.0.0.1:80", "[2606:4700::1]:443"] {
            assert!(!Network::none().allows(Protocol::Tcp, to(text)), "{text}");
        }
        assert!(!Network::none().may_resolve("example.com"));
    }

    #[test]
    fn no_network_has_the_segment_or_the_loopback_interface() {
        let every = with(&["0.0.0.0/0", "[::]/0"]);
        for network in [Network::public(), Network::all(), every] {
            for address in [
                IpAddr::from(GUEST_V4),
                GATEWAY_V4.into(),
                HOST_V4.into(),
                HOST_V6.into(),
                Ipv4Addr::new(198, 18, 0, 77).into(),
                Ipv4Addr::LOCALHOST.into(),
                Ipv4Addr::UNSPECIFIED.into(),
                "::1".parse().unwrap(),
                "::ffff:127.0.0.1".parse().unwrap(),
            ] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    assert!(!network.allows(protocol, (address, 80).into()), "{address}");
                }
            }
        }
    }

    #[test]
    fn host_has_the_named_ports_only() {
        let network = with(&["tcp:host:5432"]);
        let target =
            |protocol, address: IpAddr, port| network.target(protocol, (address, port).into(), &[]);
        assert_eq!(target(Protocol::Tcp, HOST_V4.into(), 5432), Some(to("127.0.0.1:5432")));
        assert_eq!(target(Protocol::Tcp, HOST_V6.into(), 5432), Some(to("127.0.0.1:5432")));
        assert_eq!(target(Protocol::Tcp, HOST_V4.into(), 5433), None);
        assert_eq!(target(Protocol::Udp, HOST_V4.into(), 5432), None);
        assert_eq!(target(Protocol::Tcp, GATEWAY_V4.into(), 5432), None);
    }

    #[test]
    fn private_address_of_an_allowed_name_stays_out_of_reach() {
        let network = with(&["*.example.com:443"]);
        let names = ["a.example.com".to_owned()];
        let reaches = |text| network.target(Protocol::Tcp, to(text), &names).is_some();
        assert!(reaches("1.2.3.4:443"));
        assert!(!reaches("1.2.3.4:80") && !reaches("10.0.0.1:443") && !reaches("169.254.1.1:443"));
        assert!(!network.allows(Protocol::Tcp, to("1.2.3.4:443")), "without the name");
        assert!(network.may_answer("1.2.3.4".parse().unwrap()));
        assert!(!network.may_answer("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn rule_adds_a_private_range_to_the_public_internet() {
        let network = Network::public().allow("10.1.0.0/16".parse().unwrap());
        assert!(network.allows(Protocol::Tcp, to("10.1.2.3:80")));
        assert!(!network.allows(Protocol::Tcp, to("10.2.0.1:80")));
        assert!(network.may_answer("10.1.2.3".parse().unwrap()));
        assert!(network.may_resolve("db.internal"));
    }

    #[test]
    fn decisions_read_as_a_line() {
        let to = to("1.2.3.4:443");
        let flow = |names: &[&str], is_allowed| Decision::Flow {
            protocol: Protocol::Tcp,
            to,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            is_allowed,
        };
        assert_eq!(flow(&["a.org"], true).to_string(), "allowed tcp to 1.2.3.4:443 (a.org)");
        assert_eq!(flow(&[], false).to_string(), "refused tcp to 1.2.3.4:443");
    }
}
