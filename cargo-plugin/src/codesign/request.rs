//! What to sign, and how.

use std::path::PathBuf;

/// The identity that signs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Identity {
    /// None. The program runs only on the Mac that signed it.
    #[default]
    AdHoc,
    /// On macOS, the name of a certificate in the keychain. Elsewhere, a PKCS#12 file.
    Named { name: String, password: String },
}

/// The options of a signature.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signing {
    pub(crate) identity: Identity,
    /// A property list. The hypervisor's entitlement is added.
    pub(crate) entitlements: Option<PathBuf>,
    /// Whether to get a trusted timestamp from Apple, as notarization requires. Needs the network.
    pub(crate) timestamp: bool,
}

/// A request to a signer.
#[derive(Debug)]
#[cfg_attr(
    all(not(target_os = "macos"), not(feature = "codesign"), not(test)),
    expect(dead_code, reason = "nothing signs in such a build")
)]
pub(super) struct Request<'a> {
    pub(super) identity: &'a Identity,
    /// The identifier for macOS.
    pub(super) identifier: &'a str,
    /// A property list in XML.
    pub(super) entitlements: &'a [u8],
    pub(super) timestamp: bool,
}

#[cfg_attr(
    all(not(target_os = "macos"), not(feature = "codesign"), not(test)),
    expect(dead_code, reason = "nothing signs in such a build")
)]
impl Request<'_> {
    /// Whether to enable the hardened runtime, which notarization requires. Without an identity it
    /// protects nothing.
    pub(super) fn is_hardened(&self) -> bool {
        matches!(self.identity, Identity::Named { .. })
    }
}
