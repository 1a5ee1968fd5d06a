//! Registries behind proxies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use oci_support::proxy::Proxy;
use oci_support::server::{Reply, Request, Server, honest};
use oci_support::{Cache, Image, options, source};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use supermachine_baker::oci::{Credentials, Error, FetchOptions, Proxies, fetch};

/// `user:secret` in base64.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";
const IMAGE: &str = "registry.test/test:v1";

/// A server for all hosts of a registry: the registry itself, its token service, and the storage that
/// it redirects to.
fn hosts(tls: Option<Arc<ServerConfig>>) -> Server {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let image = Image::new("amd64");
    Server::start_with(tls, move |request| match request.header("host").unwrap() {
        "auth.test" => match request.header("authorization") {
            Some(BASIC) => Reply::new(200, r#"{"token":"good"}"#),
            _ => Reply::new(401, ""),
        },
        "storage.test" => honest(&image, request),
        "registry.test" if request.header("authorization") == Some("Bearer good") => {
            if request.path.contains("/blobs/") {
                let location = format!("{scheme}://storage.test{}", request.path);
                return Reply::new(307, "").header("Location", &location);
            }
            honest(&image, request)
        }
        "registry.test" => {
            let challenge = format!("Bearer realm=\"{scheme}://auth.test/token\"");
            Reply::new(401, "").header("WWW-Authenticate", &challenge)
        }
        _ => Reply::new(404, ""),
    })
}

fn tls() -> Option<Arc<ServerConfig>> {
    let pem = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oci_support/tls").join(name)
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let certificate = CertificateDer::from_pem_file(pem("server.pem")).unwrap();
    Some(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
}

/// Options with credentials for the registry, and with `proxy` for all addresses. The names of the
/// hosts are not in the server's certificate.
fn through(proxy: &str) -> FetchOptions {
    let mut options = options();
    options.insecure = true;
    options.credentials =
        Some(Credentials::Password { user: "user".to_owned(), password: "secret".to_owned() });
    let mut proxies = Proxies::none();
    proxies.https = Some(proxy.to_owned());
    proxies.http = Some(proxy.to_owned());
    options.proxies = proxies;
    options
}

fn pull(options: &FetchOptions) -> Result<usize, Error> {
    let cache = Cache::new();
    let pulled = fetch(&source(IMAGE), &cache.blobs, options);
    cache.blobs();
    pulled.map(|image| image.layers.len())
}

/// The requests to a host.
fn to<'r>(requests: &'r [Request], host: &'r str) -> impl Iterator<Item = &'r Request> {
    requests.iter().filter(move |request| request.header("host") == Some(host))
}

fn assert_secrets_are_kept(server: &Server) {
    let requests = server.requests();
    assert_eq!(to(&requests, "storage.test").count(), 4);
    assert!(to(&requests, "storage.test").all(|one| one.header("authorization").is_none()));
    let of_registry: Vec<_> =
        to(&requests, "registry.test").filter_map(|one| one.header("authorization")).collect();
    assert!(of_registry.len() >= 5 && of_registry.iter().all(|it| *it == "Bearer good"));
    assert_eq!(to(&requests, "auth.test").count(), 1);
    assert!(requests.iter().all(|one| one.header("proxy-authorization").is_none()));
}

#[test]
fn tunnels_carry_manifests_blobs_and_tokens_and_the_proxy_sees_no_credentials() {
    let server = hosts(tls());
    let proxy = Proxy::start(Some(server.address), None);
    let options = through(&format!("http://me:geheim@{}", proxy.address));
    assert_eq!(pull(&options).unwrap(), 3);
    let hosts = ["auth.test", "registry.test", "storage.test"];
    assert_eq!(proxy.targets(), hosts.map(|host| format!("CONNECT {host}:443")));
    for asked in proxy.asked() {
        assert!(!asked.has("Authorization"), "{asked:?}");
        assert!(asked.header.contains("Basic bWU6Z2VoZWlt"), "{asked:?}");
    }
    assert_secrets_are_kept(&server);
}

#[test]
fn registry_without_tls_is_reached_through_the_proxy_too() {
    let server = hosts(None);
    let proxy = Proxy::start(None, Some(server.address));
    // An address without a scheme is that of an HTTP proxy.
    let options = through(&format!("me:geheim@{}", proxy.address));
    assert_eq!(pull(&options).unwrap(), 3);
    let targets = proxy.targets();
    for part in [
        "http://registry.test/v2/test/manifests/v1",
        "http://auth.test/token?",
        "http://storage.test/v2/test/blobs/",
    ] {
        let is_asked = |target: &String| target.starts_with(&format!("GET {part}"));
        assert!(targets.iter().any(is_asked), "{part}: {targets:?}");
    }
    assert!(proxy.asked().iter().all(|asked| asked.has("Proxy-Authorization")));
    assert_secrets_are_kept(&server);
}

#[test]
fn exceptions_are_not_reached_through_the_proxy() {
    let image = Image::new("amd64");
    let (direct, server) = (Server::serving(&image), Server::serving(&image));
    let proxy = Proxy::start(Some(server.address), Some(server.address));
    let mut options = through(&format!("http://{}", proxy.address));
    // A registry on this machine is always reached directly.
    let pulled = fetch(&source(&direct.reference()), &Cache::new().blobs, &options);
    assert_eq!(pulled.unwrap().layers.len(), 3);
    options.timeouts.connect = Duration::from_millis(200);
    // This address of documentations leads nowhere.
    let unreachable = source("192.0.2.7:5000/test:v1");
    for exceptions in ["192.0.2.0/24", "192.0.2.7:5000", "*"] {
        exceptions.clone_into(&mut options.proxies.exceptions);
        let failed = fetch(&unreachable, &Cache::new().blobs, &options);
        assert!(matches!(failed, Err(Error::Unreachable { .. })), "{exceptions}: {failed:?}");
    }
    assert!(proxy.asked().is_empty(), "{:?}", proxy.asked());
    for exceptions in ["192.0.2.7:5001", "192.0.3.0/24"] {
        exceptions.clone_into(&mut options.proxies.exceptions);
        let pulled = fetch(&unreachable, &Cache::new().blobs, &options);
        assert_eq!(pulled.unwrap().layers.len(), 3, "{exceptions}");
    }
}

#[test]
fn proxy_that_fails_is_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusing = Proxy::start(None, None);
    for address in [closed, refusing.address] {
        let mut options = through(&format!("http://me:geheim@{address}"));
        options.insecure = false;
        let error = pull(&options).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(&format!("through the proxy {address}")), "{error}: {cause}");
        assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
    }
    let error = pull(&through("ftp://proxy.test")).unwrap_err();
    assert!(matches!(error, Error::Proxy { .. }), "{error:?}");
}

/// This test runs itself again with each environment.
#[test]
fn environment_names_proxies_in_capitals_or_not() {
    const WITHIN: &str = "SUPERMACHINE_TEST_BEHIND_PROXY";
    if std::env::var_os(WITHIN).is_some() {
        let mut options = options();
        options.insecure = true;
        options.proxies = FetchOptions::default().proxies;
        assert_eq!(pull(&options).unwrap(), 3);
        return;
    }
    let image = Image::new("amd64");
    let config = tls();
    let secure = Server::start_with(config, move |request| honest(&image, request));
    let proxy = Proxy::start(Some(secure.address), None);
    let address = format!("http://{}", proxy.address);
    for (number, name) in
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().enumerate()
    {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "environment_names_proxies_in_capitals_or_not"]).env(WITHIN, "1");
        for other in
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]
        {
            again.env_remove(other);
        }
        let output = again.env(name, &address).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        let count = proxy.asked().iter().filter(|asked| asked.method == "CONNECT").count();
        assert!(count > number, "{name}: {count}");
    }
    assert_eq!(proxy.targets(), ["CONNECT registry.test:443"]);
}
