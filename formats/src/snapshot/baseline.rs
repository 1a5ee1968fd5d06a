//! CPU baselines: named sets of processor features that a guest sees.
//!
//! A named baseline is a fixed set. A guest sees it and nothing else, whatever the host has, so that a
//! snapshot runs on every host that has the set. This module owns the names; the architecture's own
//! module owns what is in each set.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::record::byte_enum;
use crate::snapshot::machine::Architecture;

byte_enum! {
    /// A set of processor features that a guest may use.
    pub enum Baseline {
        /// All features of the host that makes the snapshot.
        Host = 0,
        /// x86_64 processors since about 2009.
        V2 = 2,
        /// x86_64 processors since about 2013, with AVX2.
        V3 = 3,
        /// arm64 processors since about 2018: Armv8.2-A with cryptography and dot products.
        Armv8_2 = 16,
        /// arm64 processors with the features of Apple's M1, less pointer authentication.
        AppleM1 = 17,
    }
}

impl Baseline {
    /// Every baseline of an architecture, the least demanding one first.
    #[must_use]
    pub fn all(architecture: Architecture) -> &'static [Self] {
        match architecture {
            Architecture::X86_64 => &[Self::V2, Self::V3, Self::Host],
            Architecture::Aarch64 => &[Self::Armv8_2, Self::AppleM1, Self::Host],
        }
    }

    /// The baseline of snapshots that ask for no other.
    #[must_use]
    pub fn default_of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::X86_64 => Self::V3,
            Architecture::Aarch64 => Self::Armv8_2,
        }
    }

    /// The name, as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::Armv8_2 => "armv8.2-a",
            Self::AppleM1 => "apple-m1",
        }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text does not name a baseline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a CPU baseline; use host, on x86_64 x86-64-v2 or x86-64-v3, \
     on arm64 armv8.2-a or apple-m1"
)]
pub struct UnknownBaseline {
    /// The text.
    pub name: String,
}

impl FromStr for Baseline {
    type Err = UnknownBaseline;

    fn from_str(name: &str) -> Result<Self, UnknownBaseline> {
        let all = [Architecture::X86_64, Architecture::Aarch64].map(Self::all);
        let known = all.into_iter().flatten().copied().find(|baseline| baseline.name() == name);
        known.ok_or_else(|| UnknownBaseline { name: name.to_string() })
    }
}

/// Names of processor features. `Display` prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features(pub Vec<String>);

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused_with_all_of_them() {
        let error = "v3".parse::<Baseline>().unwrap_err().to_string();
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            for baseline in Baseline::all(architecture) {
                assert_eq!(baseline.name().parse(), Ok(*baseline));
                assert!(error.contains(baseline.name()), "{error}");
            }
            assert!(Baseline::all(architecture).contains(&Baseline::default_of(architecture)));
        }
    }
}
