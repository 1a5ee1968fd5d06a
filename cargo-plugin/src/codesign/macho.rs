//! Checks that bytes are a Mach-O file that can be signed.
//!
//! Signers trust the offsets and sizes in a file. This module checks all of them first, and refuses a
//! truncated or inconsistent file with a typed error.

/// The most architectures in one file.
const MOST_SLICES: u32 = 16;
/// The most blobs of a signature to look at. There are about ten kinds.
const MOST_BLOBS: u32 = 64;
const HEADER: u64 = 32;
const SEGMENT: u64 = 72;
const SECTION: u64 = 80;
/// The size of the load command for the signature, which needs free space if it is missing.
const SIGNATURE_COMMAND: u64 = 16;

const MAGIC_64: u32 = 0xfeed_facf;
const MAGIC_32: u32 = 0xfeed_face;
/// The magic number of a universal file. Big-endian, unlike everything else.
const MAGIC_FAT: u32 = 0xcafe_babe;

const LC_SEGMENT_64: u32 = 0x19;
const LC_CODE_SIGNATURE: u32 = 0x1d;
/// File types that carry a signature: programs, dynamic libraries and plug-ins.
const SIGNED_KINDS: [u32; 3] = [2, 6, 8];

/// Why a file cannot be signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MachoError {
    #[error("it does not start with a Mach-O header")]
    NoHeader,
    #[error("it is for a 32-bit processor")]
    Narrow,
    #[error("its file type {kind} carries no signature")]
    Kind { kind: u32 },
    #[error("{what} ends at byte {end}, after the end of the file at {size}")]
    Outside { what: &'static str, end: u64, size: u64 },
    #[error("{what} has {found} bytes, and needs at least {least}")]
    Short { what: &'static str, found: u64, least: u64 },
    #[error("it has {found} architectures, not 1 to {MOST_SLICES}")]
    Slices { found: u32 },
    #[error("{what} overlaps the part before it")]
    Overlap { what: &'static str },
    #[error("it has no segment {name}")]
    NoSegment { name: &'static str },
    #[error("its segment __LINKEDIT is not the last")]
    LinkeditNotLast,
    #[error("its signature is not at the end")]
    SignatureNotLast,
    #[error("it has no room for another load command")]
    NoRoom,
}

/// Whether bytes start like a Mach-O file.
pub(crate) fn looks_like_one(start: &[u8]) -> bool {
    let magic = |bytes: [u8; 4]| u32::from_le_bytes(bytes) == MAGIC_64;
    // A Java class starts like a universal file. Its version follows, which is larger than any
    // number of architectures.
    let is_fat = |start: &[u8]| {
        let slices = Bytes(start).big(4);
        Bytes(start).big(0) == Some(MAGIC_FAT) && slices.is_some_and(|n| n <= MOST_SLICES)
    };
    start.first_chunk().is_some_and(|first| magic(*first)) || is_fat(start)
}

/// Whether the signatures of all architectures have exactly these entitlements.
pub(crate) fn is_signed_with(bytes: &[u8], entitlements: &[u8]) -> bool {
    let has_them = |slice: &Bytes<'_>| signed_entitlements(*slice) == Some(entitlements);
    slices(Bytes(bytes)).is_ok_and(|slices| slices.iter().all(has_them))
}

/// Checks everything that a signer relies on.
pub(crate) fn check(bytes: &[u8]) -> Result<(), MachoError> {
    for slice in slices(Bytes(bytes))? {
        let (found, commands_end) = LoadCommands::read(slice)?;
        found.judge(slice, commands_end)?;
    }
    Ok(())
}

/// The architectures in a file.
fn slices(file: Bytes<'_>) -> Result<Vec<Bytes<'_>>, MachoError> {
    if file.big(0) != Some(MAGIC_FAT) {
        return Ok(vec![file]);
    }
    let count = file.big(4).ok_or(MachoError::NoHeader)?;
    if count == 0 || count > MOST_SLICES {
        return Err(MachoError::Slices { found: count });
    }
    let mut used = 8 + 20 * u64::from(count);
    let mut slices = Vec::new();
    for index in 0..u64::from(count) {
        let entry = 8 + 20 * index;
        let (Some(offset), Some(size)) = (file.big(entry + 8), file.big(entry + 12)) else {
            return Err(file.outside("the list of architectures", used));
        };
        let (offset, size) = (u64::from(offset), u64::from(size));
        if offset < used {
            return Err(MachoError::Overlap { what: "an architecture" });
        }
        used = offset + size;
        slices.push(file.part("an architecture", offset, size)?);
    }
    Ok(slices)
}

/// The entitlements in a signature: blob 5, behind a header of eight bytes.
fn signed_entitlements(slice: Bytes<'_>) -> Option<&[u8]> {
    const SLOT: u32 = 5;
    let (start, end) = LoadCommands::read(slice).ok()?.0.signature?;
    let signature = slice.part("the signature", start, end.checked_sub(start)?).ok()?;
    let count = signature.big(8)?.min(MOST_BLOBS);
    let entry = |index: u32| 12 + 8 * u64::from(index);
    let index = (0..count).find(|index| signature.big(entry(*index)) == Some(SLOT))?;
    let at = u64::from(signature.big(entry(index) + 4)?);
    let size = u64::from(signature.big(at + 4)?);
    Some(signature.part("the entitlements", at + 8, size.checked_sub(8)?).ok()?.0)
}

/// The load commands of one architecture.
#[derive(Default)]
struct LoadCommands {
    /// Ranges in the file, in the order of the commands.
    segments: Vec<(u64, u64)>,
    has_text: bool,
    linkedit: Option<usize>,
    signature: Option<(u64, u64)>,
    first_section: Option<u64>,
}

impl LoadCommands {
    /// Reads the load commands, and returns their end.
    fn read(file: Bytes<'_>) -> Result<(Self, u64), MachoError> {
        match file.little(0) {
            Some(MAGIC_64) => {}
            Some(MAGIC_32) => return Err(MachoError::Narrow),
            _ => return Err(MachoError::NoHeader),
        }
        let word = |at| file.little(at).ok_or_else(|| file.outside("the header", HEADER));
        let (kind, count, size) = (word(12)?, word(16)?, u64::from(word(20)?));
        word(28)?;
        if !SIGNED_KINDS.contains(&kind) {
            return Err(MachoError::Kind { kind });
        }
        let end = HEADER + size;
        file.part("the load commands", HEADER, size)?;
        let mut found = Self::default();
        let mut at = HEADER;
        for _ in 0..count {
            at += found.command(file, at, end)?;
        }
        Ok((found, end))
    }

    /// Reads the load command at an offset, and returns its size.
    fn command(&mut self, file: Bytes<'_>, at: u64, end: u64) -> Result<u64, MachoError> {
        const WHAT: &str = "a load command";
        let (Some(command), Some(size)) = (file.little(at), file.little(at + 4)) else {
            return Err(file.outside(WHAT, at + 8));
        };
        let size = u64::from(size);
        let least = match command {
            LC_SEGMENT_64 => SEGMENT,
            LC_CODE_SIGNATURE => SIGNATURE_COMMAND,
            _ => 8,
        };
        if size < least {
            return Err(MachoError::Short { what: WHAT, found: size, least });
        }
        if at + size > end {
            return Err(MachoError::Outside { what: WHAT, end: at + size, size: end });
        }
        let body = file.part(WHAT, at, size)?;
        match command {
            LC_SEGMENT_64 => self.segment(file, body, size)?,
            LC_CODE_SIGNATURE if self.signature.is_some() => {
                return Err(MachoError::Overlap { what: "a second signature" });
            }
            LC_CODE_SIGNATURE => {
                let place = body.little(8).zip(body.little(12));
                let (start, length) = place.ok_or_else(|| body.outside(WHAT, least))?;
                self.signature = Some((start.into(), u64::from(start) + u64::from(length)));
            }
            _ => {}
        }
        Ok(size)
    }

    fn segment(&mut self, file: Bytes<'_>, body: Bytes<'_>, size: u64) -> Result<(), MachoError> {
        const WHAT: &str = "a segment";
        let (Some(start), Some(length), Some(sections)) =
            (body.long(40), body.long(48), body.little(64))
        else {
            return Err(body.outside(WHAT, SEGMENT));
        };
        file.part(WHAT, start, length)?;
        let least = SEGMENT + SECTION * u64::from(sections);
        if size < least {
            return Err(MachoError::Short { what: WHAT, found: size, least });
        }
        let first = (sections > 0).then(|| body.little(SEGMENT + 48)).flatten();
        self.first_section = self.first_section.or(first.map(u64::from));
        match body.0.get(8..24).map(|name| name.split(|byte| *byte == 0).next().unwrap_or(name)) {
            Some(b"__TEXT") => self.has_text = true,
            Some(b"__LINKEDIT") if self.linkedit.is_some() => {
                return Err(MachoError::Overlap { what: "a second segment __LINKEDIT" });
            }
            Some(b"__LINKEDIT") => self.linkedit = Some(self.segments.len()),
            _ => {}
        }
        self.segments.push((start, start + length));
        Ok(())
    }

    /// Checks that all ranges are consistent.
    fn judge(&self, file: Bytes<'_>, commands_end: u64) -> Result<(), MachoError> {
        if !self.has_text {
            return Err(MachoError::NoSegment { name: "__TEXT" });
        }
        let linkedit = self.linkedit.ok_or(MachoError::NoSegment { name: "__LINKEDIT" })?;
        let size = file.len();
        let (linkedit_start, linkedit_end) = match self.segments.get(linkedit) {
            Some(place) if linkedit + 1 == self.segments.len() && place.1 == size => *place,
            _ => return Err(MachoError::LinkeditNotLast),
        };
        let mut sorted: Vec<_> = self.segments.iter().filter(|(start, end)| start < end).collect();
        sorted.sort_unstable();
        let overlaps = |pair: &[&(u64, u64)]| matches!(pair, [one, next] if next.0 < one.1);
        if sorted.windows(2).any(overlaps) || linkedit_start < commands_end {
            return Err(MachoError::Overlap { what: "a segment" });
        }
        match self.signature {
            Some((start, end)) if start >= linkedit_start && end == linkedit_end => Ok(()),
            Some(_) => Err(MachoError::SignatureNotLast),
            None if self.first_section.is_some_and(|at| at >= commands_end + SIGNATURE_COMMAND) => {
                Ok(())
            }
            None => Err(MachoError::NoRoom),
        }
    }
}

/// Numbers in bytes, with bounds checks.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn len(self) -> u64 {
        self.0.len() as u64
    }

    fn part(self, what: &'static str, start: u64, length: u64) -> Result<Bytes<'a>, MachoError> {
        let end = start.saturating_add(length);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        range
            .and_then(|(start, end)| self.0.get(start..end))
            .map(Bytes)
            .ok_or_else(|| self.outside(what, end))
    }

    fn outside(self, what: &'static str, end: u64) -> MachoError {
        MachoError::Outside { what, end, size: self.len() }
    }

    fn array<const N: usize>(self, at: u64) -> Option<[u8; N]> {
        self.0.get(usize::try_from(at).ok()?..)?.first_chunk().copied()
    }

    fn big(self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn little(self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn long(self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}
