//! Signs programs for macOS, which lets only signed programs use the hypervisor.
//!
//! Owns the options of a signature (entitlements, hardened runtime, identity), the checks of the input,
//! and the atomic replacement of files. The system's `codesign` makes the signature on macOS;
//! elsewhere `apple-codesign` does, if this crate is built with it.

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
mod request;
#[cfg(all(test, not(target_os = "macos")))]
mod system;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::path::Path;

use entitlements::Entitlements;
pub(crate) use error::CodesignError;
use request::Request;
pub(crate) use request::{Identity, Signing};

/// Whether a file starts like a program for macOS.
pub(crate) fn is_for_macos(path: &Path) -> bool {
    let mut start = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && macho::looks_like_one(&start)
}

/// Signs a program before it starts, unless its signature is already right. Another process may be
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
/// Signs a copy, and then replaces the program, so that it is never half signed. In a bundle this
/// holds for each file.
pub(crate) fn sign(path: &Path, signing: &Signing) -> Result<(), CodesignError> {
    let entitlements = Entitlements::read(signing.entitlements.as_deref())?.xml()?;
    // Replace the program, not a link to it.
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
    // The signer may replace the file, so keep no handle to it.
    let copy = copy.into_temp_path();
    signer::sign_file(&copy, request)?;
    fs::set_permissions(&copy, permissions).map_err(failed("copied"))?;
    File::open(&copy).and_then(|file| file.sync_all()).map_err(failed("copied"))?;
    copy.persist(path).map_err(|error| failed("replaced")(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("replaced"))
}
