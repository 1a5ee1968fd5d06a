//! Errors of signing.

use std::io;
use std::path::{Path, PathBuf};
#[cfg(any(target_os = "macos", test))]
use std::process::ExitStatus;

use super::macho::MachoError;

/// Why a program was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodesignError {
    /// The system refused a file operation.
    #[error("{} cannot be {op}", path.display())]
    File { op: &'static str, path: PathBuf, source: io::Error },
    /// The folder is not a bundle.
    #[error("{} is a folder but not an app bundle: it has no Contents/Info.plist", path.display())]
    NotABundle { path: PathBuf },
    /// The path is neither a file nor a folder.
    #[error("{} is neither a file nor an app bundle", path.display())]
    NotAFile { path: PathBuf },
    /// The file is not a program for macOS, or is damaged.
    #[error("{} is not a Mach-O program that can be signed", path.display())]
    NotMachO { path: PathBuf, source: MachoError },
    /// The file is read-only.
    #[error("{} is read-only: make it writable (chmod u+w) to sign it", path.display())]
    ReadOnly { path: PathBuf },
    /// The entitlements cannot be read as a property list.
    #[error("the entitlements in {} are not a property list", path.display())]
    Entitlements { path: PathBuf },
    /// The property list is not a dictionary.
    #[error("the entitlements in {} are not a dictionary", path.display())]
    NotADictionary { path: PathBuf },
    /// The value has a type that entitlements cannot have.
    #[error(
        "the entitlement {key} in {} is neither a boolean, an integer, a string, nor an array \
         or a dictionary of them",
        path.display()
    )]
    Value { path: PathBuf, key: String },
    /// The file is far larger than any real entitlements.
    #[error("the entitlements in {} have {size} bytes, and the limit is {most}", path.display())]
    TooLarge { path: PathBuf, size: u64, most: u64 },
    /// The dictionary could not be written as XML.
    #[error("cannot write the entitlements")]
    Encoding { source: plist::Error },
    /// The system's signing tool could not be started.
    #[cfg(any(target_os = "macos", test))]
    #[error("cannot start {}, which comes with macOS", tool.display())]
    NoTool { tool: PathBuf, source: io::Error },
    /// The system's signing tool failed.
    #[error("{} failed with {status}: {said}", tool.display())]
    #[cfg(any(target_os = "macos", test))]
    Tool { tool: PathBuf, status: ExitStatus, said: String },
    /// The signing library failed.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error("cannot sign {}", path.display())]
    Library { path: PathBuf, source: Box<apple_codesign::AppleCodesignError> },
    /// The identity cannot be opened.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error(
        "cannot use the identity {}: it must be a PKCS#12 file (.p12) with a certificate and its \
         key, encrypted as Keychain Access and `openssl pkcs12 -export -legacy` do",
        path.display()
    )]
    Identity { path: PathBuf },
    /// The identity has another password.
    #[cfg(all(not(target_os = "macos"), feature = "codesign"))]
    #[error("the password does not open {}", path.display())]
    Password { path: PathBuf },
    /// This build has no signer.
    #[cfg(all(not(target_os = "macos"), not(feature = "codesign")))]
    #[error(
        "cannot sign {} here: outside macOS, signing needs a build of cargo-supermachine with \
         --features codesign",
        path.display()
    )]
    Absent { path: PathBuf },
}

impl CodesignError {
    /// Returns a function for `map_err` that adds what was done to which file.
    pub(crate) fn file(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { op, path, source }
    }
}
