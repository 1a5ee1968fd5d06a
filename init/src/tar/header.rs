//! One header of an archive: 512 bytes of text fields. Only bytes, no files.
//!
//! Reads ustar, and what GNU's tar adds to it; writes ustar with pax records for what does not
//! fit into it.

use alloc::vec::Vec;

/// The size of a header, and what everything in an archive is padded to.
pub(super) const BLOCK: usize = 512;

const NAME: usize = 100;
const MODE_AT: usize = 100;
const UID_AT: usize = 108;
const GID_AT: usize = 116;
const SIZE_AT: usize = 124;
const TIME_AT: usize = 136;
const SUM_AT: usize = 148;
const KIND_AT: usize = 156;
const LINK_AT: usize = 157;
const MAGIC_AT: usize = 257;
const MAJOR_AT: usize = 329;
const MINOR_AT: usize = 337;
const PREFIX_AT: usize = 345;
const PREFIX: usize = 155;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Character,
    Block,
    Directory,
    Fifo,
    /// Records about the next entry.
    Pax,
    /// Records about all following entries; ignored.
    PaxGlobal,
    /// The next entry's name.
    LongName,
    /// The next entry's link.
    LongLink,
}

/// A header. Its name and link may be replaced by records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(super) time: (i64, u32),
    pub(super) device: (u32, u32),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is no header, or was damaged.
    Malformed,
    /// It is of a kind that is not supported.
    Kind,
}

impl Header {
    /// Reads a header.
    pub(super) fn decode(block: &[u8; BLOCK]) -> Result<Self, HeaderError> {
        let sum = number(field(block, SUM_AT, 8)).ok_or(HeaderError::Malformed)?;
        if sum != u64::from(checksum(block)) {
            return Err(HeaderError::Malformed);
        }
        let kind = match block.get(KIND_AT) {
            Some(b'0' | 0 | b'7') => Kind::File,
            Some(b'1') => Kind::HardLink,
            Some(b'2') => Kind::SymbolicLink,
            Some(b'3') => Kind::Character,
            Some(b'4') => Kind::Block,
            Some(b'5') => Kind::Directory,
            Some(b'6') => Kind::Fifo,
            Some(b'x') => Kind::Pax,
            Some(b'g') => Kind::PaxGlobal,
            Some(b'L') => Kind::LongName,
            Some(b'K') => Kind::LongLink,
            _ => return Err(HeaderError::Kind),
        };
        let number_at = |at, length| number(field(block, at, length)).ok_or(HeaderError::Malformed);
        let small_at = |at, length| {
            number_at(at, length).and_then(|n| u32::try_from(n).map_err(|_| HeaderError::Malformed))
        };
        let is_ustar = field(block, MAGIC_AT, 6) == b"ustar\0";
        let prefix = if is_ustar { text(field(block, PREFIX_AT, PREFIX)) } else { b"" };
        let mut name = text(field(block, 0, NAME)).to_vec();
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let device = match kind {
            Kind::Character | Kind::Block => (small_at(MAJOR_AT, 8)?, small_at(MINOR_AT, 8)?),
            _ => (0, 0),
        };
        Ok(Self {
            name,
            link: text(field(block, LINK_AT, NAME)).to_vec(),
            kind,
            mode: small_at(MODE_AT, 8)? & 0o7777,
            uid: small_at(UID_AT, 8)?,
            gid: small_at(GID_AT, 8)?,
            size: number_at(SIZE_AT, 12)?,
            time: (signed(field(block, TIME_AT, 12)).ok_or(HeaderError::Malformed)?, 0),
            device,
        })
    }

    /// Appends the header, with records before it for what does not fit.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let size = records.len() as u64;
            let name = b"PaxHeader".to_vec();
            let about = Self { name, link: Vec::new(), kind: Kind::Pax, size, ..self.clone() };
            about.put_block(out);
            out.extend_from_slice(&records);
            pad(out);
        }
        self.put_block(out);
    }

    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.name.len() > NAME {
            put_record(&mut out, b"path", &self.name);
        }
        if self.link.len() > NAME {
            put_record(&mut out, b"linkpath", &self.link);
        }
        for (name, value, digits) in [
            (b"uid".as_slice(), self.uid.into(), 7),
            (b"gid", self.gid.into(), 7),
            (b"size", self.size, 11),
        ] {
            if value >> (3 * digits) != 0 {
                put_record(&mut out, name, &decimal(value));
            }
        }
        if self.time.0 < 0 || self.time.0 >> 33 != 0 {
            let sign: &[u8] = if self.time.0 < 0 { b"-" } else { b"" };
            put_record(&mut out, b"mtime", &[sign, &decimal(self.time.0.unsigned_abs())].concat());
        }
        out
    }

    fn put_block(&self, out: &mut Vec<u8>) {
        let mut block = [0; BLOCK];
        put_text(&mut block, 0, &self.name, NAME);
        put_octal(&mut block, MODE_AT, 7, self.mode.into());
        put_octal(&mut block, UID_AT, 7, self.uid.into());
        put_octal(&mut block, GID_AT, 7, self.gid.into());
        put_octal(&mut block, SIZE_AT, 11, self.size);
        put_octal(&mut block, TIME_AT, 11, u64::try_from(self.time.0).unwrap_or(0));
        let kind = match self.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::SymbolicLink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Pax => b'x',
            Kind::PaxGlobal => b'g',
            Kind::LongName => b'L',
            Kind::LongLink => b'K',
        };
        put_text(&mut block, KIND_AT, &[kind], 1);
        put_text(&mut block, LINK_AT, &self.link, NAME);
        put_text(&mut block, MAGIC_AT, b"ustar\x0000", 8);
        put_octal(&mut block, MAJOR_AT, 7, self.device.0.into());
        put_octal(&mut block, MINOR_AT, 7, self.device.1.into());
        let sum = checksum(&block);
        put_octal(&mut block, SUM_AT, 6, sum.into());
        out.extend_from_slice(&block);
    }

    /// Takes pax records about this entry over; false if they are malformed.
    pub(super) fn apply(&mut self, records: &[u8]) -> bool {
        let mut rest = records;
        while !rest.is_empty() {
            let Some((name, value, behind)) = record(rest) else { return false };
            rest = behind;
            let taken = match name {
                b"path" => replace(&mut self.name, value),
                b"linkpath" => replace(&mut self.link, value),
                b"size" => set(&mut self.size, parse(value)),
                b"uid" => set(&mut self.uid, parse(value)),
                b"gid" => set(&mut self.gid, parse(value)),
                b"mtime" => set(&mut self.time, time(value)),
                _ => Some(()),
            };
            if taken.is_none() {
                return false;
            }
        }
        true
    }
}

/// Fills up to a whole block.
pub(super) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn replace(place: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    *place = value.to_vec();
    Some(())
}

fn set<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

/// The first of pax records `LENGTH NAME=VALUE\n`: its name, its value, what is behind it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = parse(records.get(..space)?)?;
    let (whole, behind) = records.split_at_checked(length)?;
    let pair = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair.get(..equals)?, pair.get(equals + 1..)?, behind))
}

fn put_record(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // Space, equals sign and line end; then as many digits as the length with them needs.
    let body = name.len() + value.len() + 3;
    let mut length = body;
    while body + decimal(length as u64).len() != length {
        length = body + decimal(length as u64).len();
    }
    let length = decimal(length as u64);
    out.extend([&length, b" ".as_slice(), name, b"=", value, b"\n"].concat());
}

fn parse<T: core::str::FromStr>(digits: &[u8]) -> Option<T> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with a fraction, as pax has them.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let point = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let seconds: i64 = parse(value.get(..point)?)?;
    let mut nanoseconds = 0_u32;
    let digits = value.get(point + 1..).unwrap_or_default();
    for digit in digits.iter().chain(&[b'0'; 9]).take(9) {
        nanoseconds = nanoseconds * 10 + char::from(*digit).to_digit(10)?;
    }
    // A time before 1970 counts its fraction away from zero; the kernel's goes forward.
    Some(match (value.starts_with(b"-"), nanoseconds) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

fn decimal(mut value: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    loop {
        digits.push(b'0' + u8::try_from(value % 10).unwrap_or(0));
        value /= 10;
        if value == 0 {
            digits.reverse();
            return digits;
        }
    }
}

fn field(block: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal, or in binary where the first bit says so. An empty one is 0.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && *first & 0x80 != 0
    {
        let mut bytes = core::iter::once(first & 0x7F).chain(rest.iter().copied());
        return bytes.try_fold(0_u64, |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(byte))
        });
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 8).ok()
}

/// A number that in binary may be negative.
fn signed(field: &[u8]) -> Option<i64> {
    match field.split_last_chunk::<8>() {
        Some((before, last)) if before.iter().all(|byte| *byte == 0xFF) => {
            Some(i64::from_be_bytes(*last)).filter(|value| *value < 0)
        }
        _ => number(field).and_then(|value| i64::try_from(value).ok()),
    }
}

fn put_text(block: &mut [u8; BLOCK], at: usize, value: &[u8], limit: usize) {
    for (place, byte) in block.iter_mut().skip(at).take(limit).zip(value) {
        *place = *byte;
    }
}

/// Writes the lowest digits. A record carries a number that has more.
fn put_octal(block: &mut [u8; BLOCK], at: usize, digits: usize, value: u64) {
    for (place, digit) in block.iter_mut().skip(at).take(digits).zip((0..digits).rev()) {
        *place = b'0' + u8::try_from(value >> (3 * digit) & 7).unwrap_or(0);
    }
}

/// The sum of all bytes, where the sum's own field counts as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (SUM_AT..SUM_AT + 8).contains(&at) { 32 } else { u32::from(*byte) })
        .sum()
}
