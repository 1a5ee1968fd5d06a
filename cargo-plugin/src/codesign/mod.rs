//! Signing programs for macOS, where only a signed program may use the hypervisor.
//!
//! Owns what a signature says (entitlements, hardened runtime, identity), the checks of what is
//! to be signed, and that a file is replaced whole or not at all. The signature itself is made
//! by the system's `codesign` on macOS, and elsewhere by `apple-codesign`, if it was built in.

#[cfg(all(not(target_os = "macos"), not(feature = "codesign")))]
#[path = "absent.rs"]
mod signer;
#[cfg(all(not(target_os = "macos"), feature = "codesign"))]
#[path = "library.rs"]
mod signer;
#[cfg(target_os = "macos")]
#[path = "system.rs"]
mod signer;

mod entitlements;
mod error;
mod macho;
#[cfg(all(test, not(target_os = "macos")))]
mod system;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use entitlements::Entitlements;
pub(crate) use error::CodesignError;

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Identity {
    /// Nobody: the signature says what the program is, and runs only where it was made.
    #[default]
    AdHoc,
    /// On macOS, a certificate's name in the keychain; elsewhere, a PKCS#12 file.
    Named { name: String, password: String },
}

/// What a signature is to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signing {
    pub(crate) identity: Identity,
    /// A property list; the hypervisor's entitlement is added to it.
    pub(crate) entitlements: Option<PathBuf>,
    /// Whether Apple's server certifies the time, as notarization asks for. Needs the network.
    pub(crate) timestamp: bool,
}

/// All that a signer needs to know.
#[derive(Debug)]
#[cfg_attr(
    all(not(target_os = "macos"), not(feature = "codesign"), not(test)),
    expect(dead_code, reason = "nothing signs in such a build")
)]
struct Request<'a> {
    identity: &'a Identity,
    /// What macOS knows the program by.
    identifier: &'a str,
    /// A property list in XML.
    entitlements: &'a [u8],
    timestamp: bool,
}

#[cfg_attr(
    all(not(target_os = "macos"), not(feature = "codesign"), not(test)),
    expect(dead_code, reason = "nothing signs in such a build")
)]
impl Request<'_> {
    /// Whether the program gives up what lets others change it while it runs. Notarization
    /// asks for it; where nobody vouches for the program, it protects nothing.
    fn is_hardened(&self) -> bool {
        matches!(self.identity, Identity::Named { .. })
    }
}

/// Whether a file is a program for macOS, by how it begins.
pub(crate) fn is_for_macos(path: &Path) -> bool {
    let mut start = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && macho::looks_like_one(&start)
}

/// Signs a program that is about to be started, unless it is signed so already: others may be
/// starting it at the same time.
pub(crate) fn sign_to_run(path: &Path, entitlements: Option<&Path>) -> Result<(), CodesignError> {
    let bytes = fs::read(path).map_err(CodesignError::file("read", path))?;
    if macho::is_signed_with(&bytes, &Entitlements::read(entitlements)?.xml()?) {
        return Ok(());
    }
    let entitlements = entitlements.map(Path::to_path_buf);
    sign(path, &Signing { entitlements, ..Signing::default() })
}

/// Signs a program, or an app bundle with the programs in it.
///
/// A program is signed in a copy beside it, which then takes its place, so that it is never
/// half signed. In a bundle this holds for each file.
pub(crate) fn sign(path: &Path, signing: &Signing) -> Result<(), CodesignError> {
    let entitlements = Entitlements::read(signing.entitlements.as_deref())?.xml()?;
    // The program itself, not a link to it, is replaced.
    let path = fs::canonicalize(path).map_err(CodesignError::file("found", path))?;
    let kind = fs::metadata(&path).map_err(CodesignError::file("read", &path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let request = Request {
        identity: &signing.identity,
        identifier: &name,
        entitlements: &entitlements,
        timestamp: signing.timestamp,
    };
    if kind.is_file() {
        return sign_file(&path, kind.permissions(), &request);
    }
    if !kind.is_dir() {
        return Err(CodesignError::NotAFile { path });
    }
    if !path.join("Contents/Info.plist").is_file() {
        return Err(CodesignError::NotABundle { path });
    }
    signer::sign_bundle(&path, &request)
}

fn sign_file(
    path: &Path,
    permissions: Permissions,
    request: &Request<'_>,
) -> Result<(), CodesignError> {
    let bytes = fs::read(path).map_err(CodesignError::file("read", path))?;
    macho::check(&bytes)
        .map_err(|source| CodesignError::NotMachO { path: path.to_path_buf(), source })?;
    if permissions.readonly() {
        return Err(CodesignError::ReadOnly { path: path.to_path_buf() });
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |op| CodesignError::file(op, path);
    let mut copy = tempfile::Builder::new()
        .prefix(".signing-")
        .tempfile_in(folder)
        .map_err(CodesignError::file("written to", folder))?;
    copy.write_all(&bytes).map_err(failed("copied"))?;
    drop(bytes);
    // A signer may replace the file, so that what is open is not what is signed.
    let copy = copy.into_temp_path();
    signer::sign_file(&copy, request)?;
    fs::set_permissions(&copy, permissions).map_err(failed("copied"))?;
    File::open(&copy).and_then(|file| file.sync_all()).map_err(failed("copied"))?;
    copy.persist(path).map_err(|error| failed("replaced")(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("replaced"))
}
