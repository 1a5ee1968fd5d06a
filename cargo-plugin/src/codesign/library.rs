//! Signs with `apple-codesign`, on any system.

use std::fs;
use std::path::Path;

use apple_codesign::cryptography::{InMemoryPrivateKey, parse_pfx_data};
use apple_codesign::{
    AppleCodesignError, BundleSigner, CodeSignatureFlags, MachFile, MachOSigner, SettingsScope,
    SigningSettings,
};
use x509_certificate::CapturedX509Certificate;

use super::error::CodesignError;
use super::request::{Identity, Request};

const TIMESTAMP_SERVER: &str = "http://timestamp.apple.com/ts01";

pub(super) fn sign_file(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    let bytes = fs::read(path).map_err(CodesignError::file("read", path))?;
    let signed = with_settings(path, request, |mut settings| {
        settings.set_binary_identifier(SettingsScope::Main, request.identifier);
        // The signature covers a property list inside the program.
        for macho in MachFile::parse(&bytes)? {
            macho.check_signing_capability()?;
            if let Some(info) = macho.embedded_info_plist()? {
                let index = macho.index.unwrap_or(0);
                settings.set_info_plist_data(SettingsScope::MultiArchIndex(index), info);
            }
        }
        let mut signed = Vec::with_capacity(bytes.len());
        MachOSigner::new(&bytes)?.write_signed_binary(&settings, &mut signed)?;
        Ok(signed)
    })?;
    fs::write(path, signed).map_err(CodesignError::file("written", path))
}

/// Signs the bundle's program, and seals its other files. Other programs in it keep their
/// entitlements.
pub(super) fn sign_bundle(path: &Path, request: &Request<'_>) -> Result<(), CodesignError> {
    with_settings(path, request, |settings| {
        BundleSigner::new_from_path(path)?.write_signed_bundle(path, &settings).map(drop)
    })
}

fn with_settings<T>(
    path: &Path,
    request: &Request<'_>,
    sign: impl FnOnce(SigningSettings<'_>) -> Result<T, AppleCodesignError>,
) -> Result<T, CodesignError> {
    let failed = |source| CodesignError::Library { path: path.to_path_buf(), source };
    // The settings borrow the key.
    let identity = match request.identity {
        Identity::AdHoc => None,
        Identity::Named { name, password } => Some(open(Path::new(name), password)?),
    };
    let settings = settings(request, identity.as_ref()).map_err(|error| failed(Box::new(error)))?;
    sign(settings).map_err(|error| failed(Box::new(error)))
}

type Opened = (CapturedX509Certificate, InMemoryPrivateKey);

fn settings<'a>(
    request: &Request<'_>,
    identity: Option<&'a Opened>,
) -> Result<SigningSettings<'a>, AppleCodesignError> {
    let mut settings = SigningSettings::default();
    let xml = String::from_utf8_lossy(request.entitlements);
    settings.set_entitlements_xml(SettingsScope::Main, xml)?;
    if request.is_hardened() {
        settings.set_code_signature_flags(SettingsScope::Main, CodeSignatureFlags::RUNTIME);
    }
    if let Some((certificate, key)) = identity {
        settings.set_signing_key(key, certificate.clone());
        settings.chain_apple_certificates();
        settings.set_team_id_from_signing_certificate();
        if request.timestamp {
            settings.set_time_stamp_url(TIMESTAMP_SERVER)?;
        }
    }
    Ok(settings)
}

fn open(path: &Path, password: &str) -> Result<Opened, CodesignError> {
    let bytes = fs::read(path).map_err(CodesignError::file("read", path))?;
    let path = path.to_path_buf();
    parse_pfx_data(&bytes, password).map_err(|error| match error {
        AppleCodesignError::PfxBadPassword => CodesignError::Password { path },
        _ => CodesignError::Identity { path },
    })
}
