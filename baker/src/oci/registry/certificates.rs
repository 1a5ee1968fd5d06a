//! The user's certificates for registries.
//!
//! Reads the folders `certs.d/HOST[:PORT]` of Docker and Podman: `*.crt` are certificate authorities,
//! `*.cert` with the `*.key` of the same name is the client certificate. Authorities of the caller
//! count for every host; those of a folder only for its host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::oci::error::Error;
use crate::oci::options::FetchOptions;

/// Authorities to trust besides the system's, and the client certificate.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    /// The certificates for the registry `host`.
    pub(super) fn of(host: &str, options: &FetchOptions) -> Result<Self, Error> {
        let mut all = Self::given(options)?;
        for folder in &options.certificate_dirs {
            all.add_folder(&folder.join(host))?;
        }
        Ok(all)
    }

    /// The certificates for every host.
    pub(super) fn given(options: &FetchOptions) -> Result<Self, Error> {
        let mut all = Self::default();
        for path in &options.authorities {
            all.add_authorities(path)?;
        }
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none()
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), Error> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(Error::io("read", folder)(error)),
        };
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(Error::io("read", folder))?;
        files.sort();
        let with = |ending: &str| {
            let ending = ending.to_owned();
            files.iter().filter(move |file| file.extension().is_some_and(|found| *found == *ending))
        };
        for file in with("crt") {
            self.add_authorities(file)?;
        }
        for file in with("cert") {
            let key = file.with_extension("key");
            self.client = Some((certificates_in(file)?, key_in(&key)?));
        }
        Ok(())
    }

    fn add_authorities(&mut self, path: &Path) -> Result<(), Error> {
        self.authorities.extend(certificates_in(path)?);
        Ok(())
    }
}

/// Whether the folder does not exist or is not accessible.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = fs::read(path).map_err(Error::io("read", path))?;
    let invalid = |source| Error::Certificate { path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.into()))?;
    if found.is_empty() {
        return Err(invalid("it has no certificate in PEM form".into()));
    }
    Ok(found)
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = fs::read(path).map_err(Error::io("read", path))?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|source| Error::Certificate { path: path.to_owned(), source: source.into() })
}

/// Accepts any certificate. Still checks signatures.
#[derive(Debug)]
pub(super) struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl AcceptAny {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
