//! Pax records: `LENGTH KEY=VALUE\n`, where the value may contain any byte.

use super::super::error::HeaderProblem;
use super::super::spool::Segment;
use super::super::tree::{Attributes, Timestamp};

const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// The records that matter to an image. An empty value equals a missing record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) attributes: Attributes,
    pub(super) sparse: SparseRecords,
}

/// GNU tar's records of a sparse file, in its formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// The map of formats 0.0 and 0.1; that of 1.0 precedes the data.
    pub(super) map: Option<Vec<Segment>>,
    /// The offset of an incomplete pair of format 0.0.
    pending: Option<u64>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, HeaderProblem> {
        let mut records = Self::default();
        // Some archivers pad their last block with NULs.
        while !bytes.is_empty() && bytes.first() != Some(&0) {
            let (key, value, rest) = record(bytes).ok_or(HeaderProblem::Pax)?;
            records.take(key, value)?;
            bytes = rest;
        }
        if records.sparse.pending.is_some() {
            return Err(HeaderProblem::SparseMap);
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderProblem> {
        if let Some(name) = key.strip_prefix(ATTRIBUTE) {
            if !name.is_empty() {
                self.attributes.insert(name.to_vec(), value.to_vec());
            }
            return Ok(());
        }
        if value.is_empty() {
            return Ok(());
        }
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value, "size")?),
            b"uid" => self.uid = Some(decimal(value, "uid")?),
            b"gid" => self.gid = Some(decimal(value, "gid")?),
            b"mtime" => {
                self.mtime = Some(timestamp(value).ok_or(HeaderProblem::Number("mtime"))?);
            }
            b"GNU.sparse.major" => sparse.major = Some(decimal(value, "GNU.sparse.major")?),
            b"GNU.sparse.minor" => sparse.minor = Some(decimal(value, "GNU.sparse.minor")?),
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                sparse.size = Some(decimal(value, "GNU.sparse.realsize")?);
            }
            b"GNU.sparse.map" => sparse.map = Some(map(value)?),
            b"GNU.sparse.offset" => {
                let offset = decimal(value, "GNU.sparse.offset")?;
                if sparse.pending.replace(offset).is_some() {
                    return Err(HeaderProblem::SparseMap);
                }
            }
            b"GNU.sparse.numbytes" => {
                let length = decimal(value, "GNU.sparse.numbytes")?;
                let start = sparse.pending.take().ok_or(HeaderProblem::SparseMap)?;
                sparse.map.get_or_insert_default().push(Segment { start, length });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Splits off the first record: its key, its value and the rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?, "length").ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((body.get(..equals)?, body.get(equals + 1..)?, rest))
}

pub(super) fn decimal(text: &[u8], name: &'static str) -> Result<u64, HeaderProblem> {
    let number = text.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    });
    number.filter(|_| !text.is_empty()).ok_or(HeaderProblem::Number(name))
}

fn map(value: &[u8]) -> Result<Vec<Segment>, HeaderProblem> {
    let mut numbers = value.split(|byte| *byte == b',');
    let mut segments = Vec::new();
    while let Some(start) = numbers.next() {
        let length = numbers.next().ok_or(HeaderProblem::SparseMap)?;
        let start = decimal(start, "GNU.sparse.map")?;
        segments.push(Segment { start, length: decimal(length, "GNU.sparse.map")? });
    }
    Ok(segments)
}

/// Parses seconds with a fraction of up to nine digits.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?, "mtime").ok()?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let length = (1..).map(|digits| body + digits).find(|n| n.to_string().len() + body == *n);
        [format!("{} {key}=", length.unwrap()).as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn records_with_newlines_in_values_are_read_whole() {
        let attribute = record("SCHILY.xattr.security.x", b"a\nb=\0c");
        let records = Records::parse(&[attribute, record("path", b"a/b")].concat()).unwrap();
        assert_eq!(records.attributes[b"security.x".as_slice()], b"a\nb=\0c");
        assert_eq!(records.path.as_deref(), Some(b"a/b".as_slice()));
    }

    #[test]
    fn records_with_times_keep_nanoseconds_and_sign() {
        let time = |text: &str| timestamp(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-3"), Some((-3, 0)));
        for text in ["", "-", "x", "1.x", "1.2.3", "9223372036854775808", "--1", "-1.-1"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn records_that_are_damaged_are_refused() {
        assert!(Records::parse(b"6 a=b\n").is_ok());
        for text in
            ["x", "5", "5 a=b", "6 a=b", "7 a=b\n", "6 aab\n", "0 a=b\n", "99 a=b\n", " a=b\n"]
        {
            assert_eq!(Records::parse(text.as_bytes()), Err(HeaderProblem::Pax), "{text:?}");
        }
        for (key, value) in
            [("uid", "-1"), ("size", "x"), ("mtime", "1e9"), ("GNU.sparse.map", "0,1,2")]
        {
            assert!(Records::parse(&record(key, value.as_bytes())).is_err(), "{key}");
        }
    }

    #[test]
    fn records_of_sparse_pairs_must_alternate() {
        let offset = record("GNU.sparse.offset", b"10");
        let length = record("GNU.sparse.numbytes", b"5");
        let records = Records::parse(&[offset.clone(), length.clone()].concat()).unwrap();
        assert_eq!(records.sparse.map, Some(vec![Segment { start: 10, length: 5 }]));
        for bytes in [length, offset.repeat(2), offset] {
            assert_eq!(Records::parse(&bytes), Err(HeaderProblem::SparseMap));
        }
    }
}
