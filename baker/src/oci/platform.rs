//! Platforms: which of a multi-platform image's manifests is meant.
//!
//! Owns the reading of `os/architecture[/variant]` and the choice from an index. What the
//! chosen image then really is, its config says; that check is not made here.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// An operating system, an architecture and perhaps a variant of it, in the words of the OCI
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
    /// Linux on the architecture of this machine: what its guests are.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// A platform, with other names of an architecture put into OCI's words.
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
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Whether both are the same operating system and architecture, whatever the variants.
    #[must_use]
    pub fn same_architecture(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }

    /// How well a machine of this platform runs images of `offered`: less is better.
    fn rank(&self, offered: &Self) -> Option<usize> {
        if !self.same_architecture(offered) {
            return None;
        }
        let found = offered.variant_or_default();
        self.runnable_variants().iter().position(|variant| *variant == found)
    }

    /// The variant, or the one that is meant where none is stated.
    fn variant_or_default(&self) -> &str {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => variant,
            (None, "amd64") => "v1",
            (None, "arm64") => "v8",
            (None, "arm") => "v7",
            (None, _) => "",
        }
    }

    /// The variants that this platform runs, best first: those of amd64 and arm include the
    /// lower ones.
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

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = |word: &str| {
            !word.is_empty()
                && word.len() <= 64
                && word.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let words: Vec<&str> = text.split('/').collect();
        match words.as_slice() {
            [os, architecture] if fits(os) && fits(architecture) => {
                Ok(Self::new(os, architecture, None))
            }
            [os, architecture, variant] if fits(os) && fits(architecture) && fits(variant) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(Error::InvalidPlatform { platform: text.to_owned() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Picks what runs on `wanted` from `offered`, each with the platform it states. The first of
/// equals wins. Of manifests that state none, only a lone one is picked.
pub(crate) fn pick<'a, T>(
    wanted: &Platform,
    offered: &'a [(Option<Platform>, T)],
) -> Result<&'a T, Error> {
    let best = offered
        .iter()
        .filter_map(|(platform, item)| Some((wanted.rank(platform.as_ref()?)?, item)))
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, item)) = best {
        return Ok(item);
    }
    if let [(None, item)] = offered {
        return Ok(item);
    }
    let offered = offered.iter().filter_map(|(platform, _)| platform.clone()).take(64).collect();
    Err(Error::PlatformMissing { wanted: wanted.clone(), offered })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn offer<'a>(texts: &[&'a str]) -> Vec<(Option<Platform>, &'a str)> {
        texts.iter().map(|text| (text.parse().ok(), *text)).collect()
    }

    #[test]
    fn platform_text_round_trips() {
        for text in ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(platform(text).to_string(), text);
        }
        assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
    }

    #[test]
    fn platform_with_wrong_text_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/amd64/"] {
            assert!(
                matches!(text.parse::<Platform>(), Err(Error::InvalidPlatform { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn pick_takes_the_same_architecture() {
        let offered = offer(&["linux/arm64/v8", "linux/amd64", "windows/amd64"]);
        assert_eq!(*pick(&platform("linux/amd64"), &offered).unwrap(), "linux/amd64");
        assert_eq!(*pick(&platform("linux/arm64"), &offered).unwrap(), "linux/arm64/v8");
    }

    #[test]
    fn pick_takes_the_best_variant_that_runs() {
        let offered = offer(&["linux/amd64/v4", "linux/amd64/v2", "linux/amd64", "linux/amd64/v3"]);
        assert_eq!(*pick(&platform("linux/amd64"), &offered).unwrap(), "linux/amd64");
        assert_eq!(*pick(&platform("linux/amd64/v3"), &offered).unwrap(), "linux/amd64/v3");
        let arm = offer(&["linux/arm/v5", "linux/arm/v6"]);
        assert_eq!(*pick(&platform("linux/arm/v7"), &arm).unwrap(), "linux/arm/v6");
    }

    #[test]
    fn pick_without_a_match_names_the_offers() {
        let offered = offer(&["linux/arm64", "linux/amd64/v3"]);
        let error = pick(&platform("linux/amd64"), &offered).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no image for linux/amd64, only for linux/arm64, linux/amd64/v3"
        );
    }

    #[test]
    fn pick_takes_a_lone_manifest_without_platform() {
        let wanted = platform("linux/amd64");
        assert_eq!(*pick(&wanted, &[(None, 1)]).unwrap(), 1);
        assert!(pick(&wanted, &[(None, 1), (None, 2)]).is_err());
    }
}
