//! Why something was not signed.

use std::io;
use std::path::{Path, PathBuf};
#[cfg(any(target_os = "macos", test))]
use std::process::ExitStatus;

use super::macho::MachoError;

/// Why something was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodesignError {
    /// The system refused a file operation.
    #[error("{} cannot be {op}", path.display())]
    File { op: &'static str, path: PathBuf, source: io::Error },
    /// A folder that is not a bundle.
    #[error("{} is a folder but no app bundle: it has no Contents/Info.plist", path.display())]
    NotABundle { path: PathBuf },
    /// Neither a file nor a folder.
    #[error("{} is neither a file nor an app bundle", path.display())]
    NotAFile { path: PathBuf },
    /// Not a program for macOS, or a damaged one.
    #[error("{} is not a Mach-O program that can be signed", path.display())]
    NotMachO { path: PathBuf, source: MachoError },
    /// The file is protected.
    #[error("{} is read-only; to sign it, allow writing (chmod u+w)", path.display())]
    ReadOnly { path: PathBuf },
    /// The entitlements cannot be read as a property list.
    #[error("the entitlements in {} are not a property list", path.display())]
    Entitlements { path: PathBuf },
    /// The entitlements are something other than a dictionary.
    #[error("the entitlements in {} are not a dictionary", path.display())]
    NotADictionary { path: PathBuf },
    /// A value that entitlements cannot have.
    #[error(
        "the entitlement {key} in {} is neither a boolean, an integer, a string, nor an array \
         or a dictionary of them",
        path.display()
    )]
    Value { path: PathBuf, key: String },
    /// The entitlements are far larger than any that are real.
    #[error("the entitlements in {} have {size} bytes, more than {most}", path.display())]
    TooLarge { path: PathBuf, size: u64, most: u64 },
    /// The dictionary could not be written as XML.
    #[error("the entitlements cannot be written")]
    Encoding { source: plist::Error },
    /// The system's signing tool could not be started.
    #[cfg(any(target_os = "macos", test))]
    #[error("{} cannot be started; it comes with macOS", tool.display())]
    NoTool { tool: PathBuf, source: io::Error },
    /// The system's signing tool failed.
    #[error("{} failed with {status}: {said}", tool.display())]
    #[cfg(any(target_os = "macos", test))]
    Tool { tool: PathBuf, status: ExitStatus, said: String },
    /// The signing library failed.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error("{} cannot be signed", path.display())]
    Library { path: PathBuf, source: Box<apple_codesign::AppleCodesignError> },
    /// An identity that cannot be opened.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error(
        "{} is no identity that can be used: it must be a PKCS#12 file (.p12) with a certificate \
         and its key, encrypted as Keychain Access and `openssl pkcs12 -export -legacy` do it",
        path.display()
    )]
    Identity { path: PathBuf },
    /// An identity that is locked with another password.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error("the password does not open {}", path.display())]
    Password { path: PathBuf },
    /// This build has nothing to sign with.
    #[cfg(all(not(target_os = "macos"), not(feature = "codesign")))]
    #[error(
        "{} cannot be signed here: outside of macOS, signing needs a build of \
         cargo-supermachine with --features codesign",
        path.display()
    )]
    Absent { path: PathBuf },
}

impl CodesignError {
    /// For `map_err`.
    pub(crate) fn file(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { op, path, source }
    }
}
