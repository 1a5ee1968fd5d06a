//! The choice of a manifest from a multi-platform index.
//!
//! Parses `os/architecture[/variant]` too. The image's config states its real platform; the caller
//! checks it.

use std::str::FromStr;

use super::error::Error;
use super::platform::Platform;

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

/// Picks the best item for `wanted` from `offered`, each with its stated platform. The first of equals
/// wins. An item without a platform is picked only if it is the only one.
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
        assert_eq!(platform("Linux/amd64").to_string(), "linux/amd64");
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
