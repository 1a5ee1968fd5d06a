//! Registries with TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_support::server::{Server, honest};
use oci_support::{Cache, Image, options, source};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use supermachine_baker::oci::{Error, FetchOptions, OciImage, fetch};

/// The path of a test certificate or key.
fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oci_support/tls").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(pem(name)).unwrap()
}

/// A registry with TLS, which may require client certificates.
fn registry(wants_certificate: bool) -> Server {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if wants_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate("ca.pem")).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let config = builder.with_single_cert(vec![certificate("server.pem")], key).unwrap();
    let image = Image::new("amd64");
    Server::start_with(Some(Arc::new(config)), move |request| honest(&image, request))
}

fn pull(server: &Server, options: &FetchOptions) -> Result<OciImage, Error> {
    fetch(&source(&server.reference()), &Cache::new().blobs, options)
}

fn is_unreachable(result: &Result<OciImage, Error>) -> bool {
    matches!(result, Err(Error::Unreachable { .. }))
}

#[test]
fn registry_on_this_machine_may_speak_tls() {
    let server = registry(false);
    assert_eq!(pull(&server, &options()).unwrap().layers.len(), 3);
}

#[test]
fn authority_that_is_given_must_have_signed() {
    let server = registry(false);
    for (authority, is_right) in [("ca.pem", true), ("other-ca.pem", false)] {
        let mut options = options();
        options.authorities = vec![pem(authority)];
        let pulled = pull(&server, &options);
        assert_eq!(pulled.is_ok(), is_right, "{authority}");
        assert_eq!(is_unreachable(&pulled), !is_right, "{authority}: {pulled:?}");
    }
    let mut options = options();
    options.authorities = vec![pem("server.key")];
    assert!(matches!(pull(&server, &options), Err(Error::Certificate { .. })));
}

#[test]
fn certificates_of_a_folder_are_for_its_registry() {
    let server = registry(true);
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.certificate_dirs = vec![dir.path().to_owned()];
    for folder in ["127.0.0.1:1".to_owned(), server.address.to_string()] {
        assert!(is_unreachable(&pull(&server, &options)), "before {folder}");
        let folder = dir.path().join(folder);
        fs::create_dir(&folder).unwrap();
        for (from, to) in
            [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")]
        {
            fs::copy(pem(from), folder.join(to)).unwrap();
        }
    }
    assert_eq!(pull(&server, &options).unwrap().layers.len(), 3);
}

#[test]
fn no_tls_provider_is_installed_for_the_process() {
    pull(&registry(false), &options()).unwrap();
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[test]
fn registry_without_tls_names_the_remedy() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The answer of HTTP servers to a TLS handshake.
            let mut hello = [0; 64];
            let _ = stream.read(&mut hello);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let mut options = options();
    // With an authority, TLS is required on this machine too.
    options.authorities = vec![pem("ca.pem")];
    let image = source(&format!("{address}/test:v1"));
    let error = fetch(&image, &Cache::new().blobs, &options).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("--insecure"), "{error}: {cause}");
}
