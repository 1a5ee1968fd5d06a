//! HTTP clients: TLS, proxies and time limits.
//!
//! Each client has its own TLS configuration, so nothing is installed process-wide. All clients of a
//! session follow one rule for proxies.

use std::sync::{Arc, OnceLock};

use reqwest::{Client, ClientBuilder, Proxy, Url};
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls_platform_verifier::Verifier;

use super::certificates::{AcceptAny, Certificates};
use crate::oci::error::Error;
use crate::oci::options::{FetchOptions, Timeouts};
use crate::oci::proxies::ProxyRule;
use crate::oci::reference::is_loopback;

const USER_AGENT: &str = concat!("supermachine/", env!("CARGO_PKG_VERSION"));

/// The clients for a registry, and those for all other hosts.
pub(super) struct Transport {
    own: Clients,
    elsewhere: OnceLock<Clients>,
    options: FetchOptions,
    proxies: ProxyRule,
    may_be_plain: bool,
}

/// Clients with one TLS configuration.
struct Clients {
    limited: Client,
    /// Without a time limit for responses.
    unlimited: Client,
}

/// Whether responses have a time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseTimeout {
    Limited,
    Unlimited,
}

impl Transport {
    /// Builds the clients for the registry `host`.
    pub(super) fn new(host: &str, options: &FetchOptions) -> Result<Self, Error> {
        let certificates = Certificates::of(host, options)?;
        let may_be_plain = options.insecure || is_loopback(host) && certificates.is_empty();
        let tls = tls(certificates, !may_be_plain)?;
        let proxies = options.proxies.rule()?;
        let own = Clients::new(&tls, options.timeouts, &proxies)?;
        let (elsewhere, options) = (OnceLock::new(), options.clone());
        Ok(Self { own, elsewhere, options, proxies, may_be_plain })
    }

    /// Whether the registry may be used without TLS.
    pub(super) fn may_be_plain(&self) -> bool {
        self.may_be_plain
    }

    /// The client for requests to the registry, with its certificates.
    pub(super) fn own(&self, timeout: ResponseTimeout) -> &Client {
        self.own.client(timeout)
    }

    /// Host and port of the proxy for an address, if there is one.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<String> {
        self.proxies.name_for(url)
    }

    /// The client for requests to any other host.
    pub(super) fn elsewhere(&self, timeout: ResponseTimeout) -> Result<&Client, Error> {
        if self.elsewhere.get().is_none() {
            let tls = tls(Certificates::given(&self.options)?, !self.options.insecure)?;
            let clients = Clients::new(&tls, self.options.timeouts, &self.proxies)?;
            return Ok(self.elsewhere.get_or_init(|| clients).client(timeout));
        }
        Ok(self.elsewhere.get().unwrap_or(&self.own).client(timeout))
    }
}

impl Clients {
    fn new(tls: &ClientConfig, timeouts: Timeouts, proxies: &ProxyRule) -> Result<Self, Error> {
        let builder = || {
            let proxies = proxies.clone();
            Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(timeouts.connect)
                .referer(false)
                // `redirect` follows redirects, so that it can drop credentials.
                .redirect(reqwest::redirect::Policy::none())
                .proxy(Proxy::custom(move |url| proxies.proxy_for(url).cloned()))
                .tls_backend_preconfigured(tls.clone())
        };
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|source| Error::Tls { source: source.into() })
        };
        Ok(Self {
            limited: build(builder().read_timeout(timeouts.idle))?,
            unlimited: build(builder())?,
        })
    }

    fn client(&self, timeout: ResponseTimeout) -> &Client {
        match timeout {
            ResponseTimeout::Limited => &self.limited,
            ResponseTimeout::Unlimited => &self.unlimited,
        }
    }
}

fn tls(certificates: Certificates, is_verified: bool) -> Result<ClientConfig, Error> {
    let failed = |source: rustls::Error| Error::Tls { source: source.into() };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = builder.dangerous();
    let builder = if is_verified {
        let verifier = verifier(&certificates, provider).map_err(failed)?;
        builder.with_custom_certificate_verifier(Arc::new(verifier))
    } else {
        builder.with_custom_certificate_verifier(Arc::new(AcceptAny::new(provider)))
    };
    match certificates.client {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(failed),
    }
}

/// The system's verifier, with further authorities.
fn verifier(
    certificates: &Certificates,
    provider: Arc<CryptoProvider>,
) -> Result<Verifier, rustls::Error> {
    Verifier::new_with_extra_roots(certificates.authorities.iter().cloned(), provider)
}
