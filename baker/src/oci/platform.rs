//! Platforms, in the terms of the OCI specification.

use std::fmt;

/// An operating system, an architecture and an optional variant, in the terms of the OCI
/// specification (`linux`, `amd64`, `v2`).
///
/// ```
/// use supermachine_baker::oci::Platform;
///
/// let platform: Platform = "linux/arm64/v8".parse()?;
/// assert_eq!(platform.architecture, "arm64");
/// # Ok::<(), supermachine_baker::oci::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub architecture: String,
    /// The variant of the architecture.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of guests on this host: Linux on the host's architecture.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Builds a platform. Translates other names of an architecture into OCI's terms.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "x86" | "i386" | "i686" => "386",
            "armhf" => "arm",
            other => other,
        };
        let variant = variant.filter(|variant| !variant.is_empty()).map(ToOwned::to_owned);
        Self { os: os.to_ascii_lowercase(), architecture: architecture.to_owned(), variant }
    }

    /// Whether operating system and architecture are the same, regardless of variants.
    #[must_use]
    pub fn same_architecture(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }

    /// How well this platform runs images of `offered`; lower is better.
    pub(crate) fn rank(&self, offered: &Self) -> Option<usize> {
        if !self.same_architecture(offered) {
            return None;
        }
        let found = offered.variant_or_default();
        self.runnable_variants().iter().position(|variant| *variant == found)
    }

    /// The variant, or the architecture's default.
    fn variant_or_default(&self) -> &str {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => variant,
            (None, "amd64") => "v1",
            (None, "arm64") => "v8",
            (None, "arm") => "v7",
            (None, _) => "",
        }
    }

    /// The variants that this platform runs, best first. On amd64 and arm, a variant includes the lower
    /// ones.
    fn runnable_variants(&self) -> Vec<&str> {
        const AMD64: [&str; 4] = ["v4", "v3", "v2", "v1"];
        const ARM: [&str; 4] = ["v8", "v7", "v6", "v5"];
        let own = self.variant_or_default();
        let ladder: &[&str] = match self.architecture.as_str() {
            "amd64" => &AMD64,
            "arm" => &ARM,
            _ => &[],
        };
        match ladder.iter().position(|variant| *variant == own) {
            Some(from) => ladder.iter().skip(from).copied().collect(),
            None => vec![own],
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}
