//! Numbers in tar headers: octal text, or big-endian binary for larger ones.

use super::super::error::HeaderProblem;
use super::block::BLOCK;

const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Parses a number that cannot be negative. An empty field is zero.
pub(super) fn field(bytes: &[u8], name: &'static str) -> Result<u64, HeaderProblem> {
    let number = signed_field(bytes, name)?;
    u64::try_from(number).map_err(|_| HeaderProblem::Number(name))
}

/// Parses a number that may be negative, such as a time before 1970.
pub(super) fn signed_field(bytes: &[u8], name: &'static str) -> Result<i64, HeaderProblem> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => binary(bytes),
        _ => octal(bytes),
    }
    .ok_or(HeaderProblem::Number(name))
}

/// The valid checksums of a header, with the checksum field as spaces: the standard sums unsigned
/// bytes, some old archivers sum signed ones.
pub(super) fn checksums(block: &[u8; BLOCK]) -> [u64; 2] {
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&index) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    [unsigned, signed].map(|sum| u64::try_from(sum).unwrap_or(u64::MAX))
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let digits = bytes.get(..end)?.trim_ascii();
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        number.checked_mul(8)?.checked_add(i64::from(digit))
    })
}

/// Two's complement in all bits but the first, which marks the field as binary.
fn binary(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    let first = i64::from((first << 1).cast_signed() >> 1);
    rest.iter()
        .try_fold(first, |number, byte| number.checked_mul(256)?.checked_add(i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_in_octal_is_read() {
        for (bytes, number) in [
            ("0000644\0", 0o644),
            ("   12 \0\0", 10),
            ("\0\0\0", 0),
            ("77777777777", 0o77_777_777_777),
        ] {
            assert_eq!(field(bytes.as_bytes(), "size"), Ok(number), "{bytes:?}");
        }
    }

    #[test]
    fn field_in_binary_is_read_with_its_sign() {
        let five_gib = [0x80, 0, 0, 0, 0, 0, 0, 1, 0x40, 0, 0, 0];
        assert_eq!(field(&five_gib, "size"), Ok(5 << 30));
        assert_eq!(signed_field(&[0xff; 12], "mtime"), Ok(-1));
        assert_eq!(field(&[0xff; 12], "size"), Err(HeaderProblem::Number("size")));
    }

    #[test]
    fn field_with_other_text_or_overflow_is_refused() {
        let mut huge = [0xff; 12];
        huge[0] = 0x80;
        for bytes in [b"0000648\0".as_slice(), b"-1", b"0x10", &huge, &[b'7'; 30]] {
            assert_eq!(field(bytes, "uid"), Err(HeaderProblem::Number("uid")), "{bytes:?}");
        }
    }
}
