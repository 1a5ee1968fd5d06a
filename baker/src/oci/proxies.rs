//! Proxies for registries and token services.
//!
//! Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not, and decides which
//! hosts are reached through a proxy. This machine's own ports never are. Passwords in a proxy's
//! address never appear in errors or debug output.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use super::address_range::AddressRange;
use super::error::{Error, ProxyProblem};
use super::reference::is_loopback;

const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxies to use.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proxies {
    /// The address of the proxy for `https` addresses.
    pub https: Option<String>,
    /// The address of the proxy for `http` addresses.
    pub http: Option<String>,
    /// Hosts to reach without a proxy, with commas between them: domains, which include those below them,
    /// IP addresses, ranges such as `10.0.0.0/8`, each but the ranges perhaps with a port; or `*` for all.
    pub exceptions: String,
}

impl Proxies {
    /// No proxies.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The proxies that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::of(&|name| std::env::var_os(name))
    }

    /// Of two spellings, the one in capitals counts, unless it is empty.
    fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let stated = |name: &str| {
            let text = variable(name)?.into_string().ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let either = |name: &str| stated(name).or_else(|| stated(&name.to_ascii_lowercase()));
        // In a CGI program, a client's header `Proxy` sets HTTP_PROXY.
        let http = match stated("REQUEST_METHOD") {
            Some(_) => stated("http_proxy"),
            None => either("HTTP_PROXY"),
        };
        Self {
            https: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            http: http.or_else(|| either("ALL_PROXY")),
            exceptions: either("NO_PROXY").unwrap_or_default(),
        }
    }

    /// Parses the addresses.
    pub(super) fn rule(&self) -> Result<ProxyRule, Error> {
        let parse = |address: &Option<String>| address.as_deref().map(parse_address).transpose();
        let exceptions = self.exceptions.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Ok(ProxyRule {
            https: parse(&self.https)?,
            http: parse(&self.http)?,
            exceptions: exceptions.map(Exception::parse).collect(),
        })
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |address: &Option<String>| address.as_deref().map(without_secret);
        f.debug_struct("Proxies")
            .field("https", &shown(&self.https))
            .field("http", &shown(&self.http))
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

/// Decides between proxies.
#[derive(Clone)]
pub(super) struct ProxyRule {
    https: Option<Url>,
    http: Option<Url>,
    exceptions: Vec<Exception>,
}

/// Hosts to reach without a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Range(AddressRange),
    Address(IpAddr, Option<u16>),
    /// A domain and those below it.
    Domain(String, Option<u16>),
}

impl ProxyRule {
    /// The proxy for an address; `None` for a direct connection.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let port = url.port_or_known_default();
        let is_direct = is_loopback(&host)
            || self.exceptions.iter().any(|exception| exception.covers(&host, address, port));
        (!is_direct).then_some(proxy)
    }

    /// Host and port of the proxy for an address.
    pub(super) fn name_for(&self, url: &Url) -> Option<String> {
        let proxy = self.proxy_for(url)?;
        let host = proxy.host_str().unwrap_or_default();
        let port = proxy.port_or_known_default();
        Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    }
}

impl Exception {
    fn parse(word: &str) -> Self {
        let word = word.to_ascii_lowercase();
        if word == "*" {
            return Self::All;
        }
        if let Ok(range) = word.parse() {
            return Self::Range(range);
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().ok())
            }
            _ => (word.as_str(), None),
        };
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Self::Address(address, port),
            Err(_) => {
                let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.');
                Self::Domain(domain.to_owned(), port)
            }
        }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        let is_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::All => true,
            Self::Range(range) => address.is_some_and(|address| range.contains(address)),
            Self::Address(wanted, at) => address == Some(*wanted) && is_port(at),
            Self::Domain(domain, at) => {
                let above = host.strip_suffix(domain.as_str());
                let is_in = above.is_some_and(|above| above.is_empty() || above.ends_with('.'));
                !domain.is_empty() && is_in && is_port(at)
            }
        }
    }
}

/// Parses the address of a proxy, `http://` unless it says otherwise.
fn parse_address(text: &str) -> Result<Url, Error> {
    let failed = |source| Error::Proxy { address: without_secret(text), source };
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full).map_err(|_| failed(ProxyProblem::Address))?;
    if !SCHEMES.contains(&url.scheme()) {
        let scheme = url.scheme().to_owned();
        return Err(failed(ProxyProblem::Scheme { scheme }));
    }
    if url.host_str().unwrap_or_default().is_empty() {
        return Err(failed(ProxyProblem::Address));
    }
    Ok(url)
}

/// An address without the user and password in it.
fn without_secret(address: &str) -> String {
    let Some((secret, rest)) = address.rsplit_once('@') else { return address.to_owned() };
    let scheme = secret.split_once("://").map_or("", |(scheme, _)| scheme);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Proxies {
        let set = set.to_vec();
        Proxies::of(&move |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value))
        })
    }

    #[test]
    fn variables_count_in_capitals_first_and_empty_ones_not() {
        for (set, https, http) in [
            (&[("HTTPS_PROXY", "a:1"), ("https_proxy", "b:1")][..], Some("a:1"), None),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "b:1")], Some("b:1"), None),
            (&[("http_proxy", "c:1")], None, Some("c:1")),
            (&[("all_proxy", "d:1"), ("HTTP_PROXY", "e:1")], Some("d:1"), Some("e:1")),
            (&[("HTTP_PROXY", "f:1"), ("REQUEST_METHOD", "GET")], None, None),
            (&[("http_proxy", "f:1"), ("REQUEST_METHOD", "GET")], None, Some("f:1")),
            (&[], None, None),
        ] {
            let found = of(set);
            assert_eq!((found.https.as_deref(), found.http.as_deref()), (https, http), "{set:?}");
        }
        assert_eq!(of(&[("no_proxy", "x")]).exceptions, "x");
    }

    fn is_direct(exceptions: &str, url: &str) -> bool {
        let proxy = Some("proxy.example:3128".to_owned());
        let proxies =
            Proxies { https: proxy.clone(), http: proxy, exceptions: exceptions.to_owned() };
        proxies.rule().unwrap().proxy_for(&Url::parse(url).unwrap()).is_none()
    }

    #[test]
    fn exceptions_are_domains_addresses_and_ranges_with_ports() {
        for (exceptions, url, expected) in [
            ("", "https://r.example/", false),
            ("*", "https://r.example/", true),
            ("r.example", "https://r.example/", true),
            ("r.example", "https://a.r.example/", true),
            ("r.example", "https://ar.example/", false),
            ("r.example", "https://r.example.org/", false),
            (".r.example", "https://a.r.example/", true),
            ("*.r.example", "https://a.b.r.example/", true),
            ("R.Example.", "https://r.exAMPLE/", true),
            ("r.example", "https://r.example./", true),
            ("x, r.example\ty", "https://r.example/", true),
            ("r.example:443", "https://r.example/", true),
            ("r.example:5000", "https://r.example/", false),
            ("r.example:5000", "https://a.r.example:5000/", true),
            ("r.example:80", "http://r.example/", true),
            ("10.1.2.3", "http://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/", true),
            ("10.1.2.3:5001", "http://10.1.2.3:5000/", false),
            ("10.0.0.0/8", "http://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "http://11.1.2.3:5000/", false),
            ("10.0.0.0/8", "http://10.example/", false),
            ("fd00::/8", "http://[fd00::1]:5000/", true),
            ("fd00::1", "http://[fd00::1]:5000/", true),
            ("[fd00::1]:5000", "http://[fd00::1]:5000/", true),
            ("[fd00::1]:5001", "http://[fd00::1]:5000/", false),
            (".", "https://r.example/", false),
            (",,", "https://r.example/", false),
            ("", "http://localhost:5000/", true),
            ("", "http://127.0.0.2/", true),
            ("", "http://[::1]:5000/", true),
        ] {
            assert_eq!(is_direct(exceptions, url), expected, "{exceptions:?} {url}");
        }
    }

    #[test]
    fn proxy_is_chosen_by_the_scheme() {
        let text = |text: &str| Some(text.to_owned());
        let https = text("user:geheim@one.example:1");
        let proxies = Proxies { https, http: text("https://two.example"), ..Proxies::none() };
        let rule = proxies.rule().unwrap();
        let name = |url: &str| rule.name_for(&Url::parse(url).unwrap()).unwrap();
        assert_eq!(name("https://r.example/"), "one.example:1");
        assert_eq!(name("http://r.example/"), "two.example:443");
        assert!(!format!("{proxies:?}").contains("geheim"));
    }

    #[test]
    fn address_that_is_none_is_refused_without_its_secret() {
        for address in ["ftp://u:geheim@p.example", "http://", "u:geheim@p.example:x", "a b"] {
            let proxies = Proxies { https: Some(address.to_owned()), ..Proxies::none() };
            let error = proxies.rule().err().unwrap();
            assert!(matches!(error, Error::Proxy { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("geheim"), "{error}");
        }
    }
}
