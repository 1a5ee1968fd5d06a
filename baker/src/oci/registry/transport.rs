//! HTTP clients: TLS, proxies and time limits.
//!
//! Each client has its own TLS configuration, so nothing is installed process-wide. Proxies come from
//! the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), except for this machine's own ports.

use std::sync::{Arc, OnceLock};

use reqwest::{Client, ClientBuilder, Url};
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls_platform_verifier::Verifier;

use super::certificates::{AcceptAny, Certificates};
use crate::oci::error::Error;
use crate::oci::options::{FetchOptions, Timeouts};
use crate::oci::reference::is_loopback;

const USER_AGENT: &str = concat!("supermachine/", env!("CARGO_PKG_VERSION"));

/// The clients for a registry, and those for all other hosts.
pub(super) struct Transport {
    own: Clients,
    elsewhere: OnceLock<Clients>,
    options: FetchOptions,
    may_be_plain: bool,
}

/// Clients with one TLS configuration.
struct Clients {
    proxied: Client,
    direct: Client,
    /// Without a time limit for responses.
    unlimited_proxied: Client,
    unlimited_direct: Client,
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
        let own = Clients::new(&tls, options.timeouts)?;
        Ok(Self { own, elsewhere: OnceLock::new(), options: options.clone(), may_be_plain })
    }

    /// Whether the registry may be used without TLS.
    pub(super) fn may_be_plain(&self) -> bool {
        self.may_be_plain
    }

    /// The client for requests to the registry, with its certificates.
    pub(super) fn own(&self, url: &Url, timeout: ResponseTimeout) -> &Client {
        self.own.client(url, timeout)
    }

    /// The client for requests to any other host.
    pub(super) fn elsewhere(&self, url: &Url, timeout: ResponseTimeout) -> Result<&Client, Error> {
        if self.elsewhere.get().is_none() {
            let tls = tls(Certificates::given(&self.options)?, !self.options.insecure)?;
            let clients = Clients::new(&tls, self.options.timeouts)?;
            return Ok(self.elsewhere.get_or_init(|| clients).client(url, timeout));
        }
        Ok(self.elsewhere.get().unwrap_or(&self.own).client(url, timeout))
    }
}

impl Clients {
    fn new(tls: &ClientConfig, timeouts: Timeouts) -> Result<Self, Error> {
        let builder = || {
            Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(timeouts.connect)
                .referer(false)
                // `redirect` follows redirects, so that it can drop credentials.
                .redirect(reqwest::redirect::Policy::none())
                .tls_backend_preconfigured(tls.clone())
        };
        let limited = || builder().read_timeout(timeouts.idle);
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|source| Error::Tls { source: source.into() })
        };
        Ok(Self {
            proxied: build(limited())?,
            direct: build(limited().no_proxy())?,
            unlimited_proxied: build(builder())?,
            unlimited_direct: build(builder().no_proxy())?,
        })
    }

    fn client(&self, url: &Url, timeout: ResponseTimeout) -> &Client {
        match (url.host_str().is_some_and(is_loopback), timeout) {
            (true, ResponseTimeout::Limited) => &self.direct,
            (true, ResponseTimeout::Unlimited) => &self.unlimited_direct,
            (false, ResponseTimeout::Limited) => &self.proxied,
            (false, ResponseTimeout::Unlimited) => &self.unlimited_proxied,
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
