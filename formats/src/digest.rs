//! SHA-256 digests, which name blobs, snapshots and disks by their content.
//!
//! A [`Digest`] prints and parses as `sha256:` and 64 lower-case hexadecimal digits, the
//! form that OCI registries use.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use sha2::Digest as _;

/// The SHA-256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// A text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a digest of the form sha256:<64 lower-case hex digits>")]
pub struct InvalidDigest;

impl Digest {
    /// Hashes `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(content);
        hasher.finish()
    }

    /// Returns the 64 hexadecimal digits without the `sha256:` prefix, as in file names.
    #[must_use]
    pub fn hex(&self) -> String {
        #[expect(clippy::expect_used, reason = "four bits are a hexadecimal digit")]
        let nibble = |n: u8| char::from_digit((n & 15).into(), 16).expect("four bits");
        self.0.iter().flat_map(|byte| [nibble(byte >> 4), nibble(*byte)]).collect()
    }

    /// Parses 64 lower-case hexadecimal digits without a prefix.
    ///
    /// # Errors
    /// [`InvalidDigest`] for any other text.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        let mut digits = hex.bytes();
        for byte in &mut bytes {
            let (Some(high), Some(low)) = (digits.next(), digits.next()) else {
                return Err(InvalidDigest);
            };
            *byte = (hex_value(high)? << 4) | hex_value(low)?;
        }
        if digits.next().is_some() { Err(InvalidDigest) } else { Ok(Self(bytes)) }
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::from_hex(text.strip_prefix("sha256:").ok_or(InvalidDigest)?)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes content that arrives in pieces.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts without content.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `content`.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// Returns the digest of everything appended.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

fn hex_value(digit: u8) -> Result<u8, InvalidDigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(InvalidDigest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_empty_content_is_the_known_value() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
    }

    #[test]
    fn digest_text_round_trips() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
    }

    #[test]
    fn digest_with_wrong_text_is_refused() {
        let upper = EMPTY.to_uppercase();
        for text in ["", "sha256:", "sha256:00", &EMPTY[7..], &upper, "md5:00"] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }

    #[test]
    fn hasher_fed_in_pieces_equals_one_call() {
        let mut hasher = Hasher::new();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }
}
