//! The state file's frame: header, section table, sections.
//!
//! A digest covers every byte of the file: each table entry has that of its section, and the
//! one after the table covers header and table. Sections follow each other in table order,
//! without gaps.

use alloc::vec::Vec;

use super::baseline::Baseline;
use super::machine::{Architecture, HypervisorFamily};
use crate::Digest;
use crate::codec::{DecodeError, Put, Reader};
use crate::record::Field;

/// The magic bytes at the start of a state file.
pub const MAGIC: [u8; 8] = *b"SUPERMSN";
/// The version of the format that this build writes and reads.
pub const FORMAT_VERSION: u16 = 2;
/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 36;
/// Size of an entry of the section table in bytes.
pub const TABLE_ENTRY_SIZE: usize = 48;
/// The most sections of a file.
pub const MAX_SECTIONS: usize = 64;

const DIGEST_SIZE: usize = 32;

/// The sections, by tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Section {
    /// [`Machine`](super::Machine).
    Machine = 1,
    /// [`Workload`](super::Workload).
    Workload = 2,
    /// The vCPUs of x86_64.
    Vcpus = 3,
    /// The I/O interrupt controller of x86_64.
    Ioapic = 4,
    /// The clock of x86_64.
    Clock = 5,
    /// The list of [`Slot`](super::device::Slot).
    Slots = 6,
    /// [`Serial`](super::device::Serial).
    Serial = 7,
    /// The list of [`Disk`](super::Disk).
    Disks = 8,
    /// [`WorkingSet`](super::WorkingSet).
    WorkingSet = 10,
    /// The CPU baseline and features of x86_64.
    Processor = 11,
    /// [`Stop`](super::Stop).
    Stop = 12,
    /// [`ImageCommand`](super::ImageCommand).
    ImageCommand = 13,
    /// [`AfterRestore`](super::AfterRestore).
    AfterRestore = 14,
    /// The vCPUs of arm64.
    ArmVcpus = 15,
    /// The interrupt controller of arm64.
    Gic = 16,
    /// The counter of arm64.
    Counter = 17,
    /// The CPU baseline and identification registers of arm64.
    ArmProcessor = 18,
}

impl Section {
    /// Every section, in file order.
    pub const ALL: [Self; 17] = [
        Self::Machine,
        Self::Workload,
        Self::Vcpus,
        Self::Ioapic,
        Self::Clock,
        Self::Slots,
        Self::Serial,
        Self::Disks,
        Self::WorkingSet,
        Self::Processor,
        Self::Stop,
        Self::ImageCommand,
        Self::AfterRestore,
        Self::ArmVcpus,
        Self::Gic,
        Self::Counter,
        Self::ArmProcessor,
    ];

    /// The architecture that the section belongs to; `None` if every snapshot may have it.
    #[must_use]
    pub fn architecture(self) -> Option<Architecture> {
        match self {
            Self::Vcpus | Self::Ioapic | Self::Clock | Self::Processor => {
                Some(Architecture::X86_64)
            }
            Self::ArmVcpus | Self::Gic | Self::Counter | Self::ArmProcessor => {
                Some(Architecture::Aarch64)
            }
            _ => None,
        }
    }

    /// The name that errors show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Workload => "workload",
            Self::Vcpus => "vcpus",
            Self::Ioapic => "ioapic",
            Self::Clock => "clock",
            Self::Slots => "slots",
            Self::Serial => "serial",
            Self::Disks => "disks",
            Self::WorkingSet => "working set",
            Self::Processor => "processor",
            Self::Stop => "stop",
            Self::ImageCommand => "image command",
            Self::AfterRestore => "after restore",
            Self::ArmVcpus => "arm64 vcpus",
            Self::Gic => "gic",
            Self::Counter => "counter",
            Self::ArmProcessor => "arm64 processor",
        }
    }
}

/// Why a state file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file does not start with the magic of a state file.
    #[error("not a snapshot state file")]
    NotASnapshot,
    /// The format has another version.
    #[error("snapshot has format version {found}, this build reads {supported}")]
    Version {
        /// The file's version.
        found: u16,
        /// The version that this build reads.
        supported: u16,
    },
    /// The file needs features that this build does not know.
    #[error("snapshot needs unknown features {unknown:#x}")]
    Features {
        /// The unknown feature bits.
        unknown: u64,
    },
    /// The header or the section table is damaged.
    #[error("snapshot header is damaged")]
    Header {
        /// The malformed field.
        source: DecodeError,
    },
    /// The bytes do not match their digest.
    #[error("snapshot section {section} does not match its digest")]
    Digest {
        /// The section at fault.
        section: &'static str,
    },
    /// A section is missing.
    #[error("snapshot section {section} is missing")]
    Missing {
        /// The missing section.
        section: &'static str,
    },
    /// A section is malformed.
    #[error("snapshot section {section} is malformed")]
    Section {
        /// The section at fault.
        section: &'static str,
        /// The malformed field.
        source: DecodeError,
    },
    /// A section belongs to another architecture than the header's.
    #[error("snapshot for {} has the section {section} of another architecture", architecture.name())]
    Foreign {
        /// The section at fault.
        section: &'static str,
        /// The header's architecture.
        architecture: Architecture,
    },
    /// Two sections contradict each other.
    #[error("snapshot section {section} has {what}")]
    Inconsistent {
        /// The section at fault.
        section: &'static str,
        /// The fault.
        what: &'static str,
    },
}

/// Collects sections and writes them by rising tag.
pub(super) struct Builder {
    architecture: Architecture,
    hypervisor: HypervisorFamily,
    baseline: Baseline,
    sections: Vec<(Section, Vec<u8>)>,
}

impl Builder {
    pub(super) fn new(
        architecture: Architecture,
        hypervisor: HypervisorFamily,
        baseline: Baseline,
    ) -> Self {
        Self { architecture, hypervisor, baseline, sections: Vec::new() }
    }

    pub(super) fn add(&mut self, section: Section, content: &impl Field) {
        let mut bytes = Vec::new();
        content.put(&mut bytes);
        self.sections.push((section, bytes));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.sections.sort_by_key(|(section, _)| *section as u16);
        let mut out = Vec::new();
        Put::put(&mut out, &MAGIC);
        out.put_u16(FORMAT_VERSION);
        self.architecture.put(&mut out);
        self.hypervisor.put(&mut out);
        self.baseline.put(&mut out);
        Put::put(&mut out, &[0; 3]);
        out.put_u64(0);
        out.put_u64(0);
        out.put_count(self.sections.len());
        let mut offset = HEADER_SIZE + self.sections.len() * TABLE_ENTRY_SIZE + DIGEST_SIZE;
        for (section, bytes) in &self.sections {
            out.put_u16(*section as u16);
            out.put_u16(0);
            out.put_u32(u32::try_from(offset).unwrap_or(u32::MAX));
            out.put_u64(bytes.len() as u64);
            Digest::of(bytes).put(&mut out);
            offset += bytes.len();
        }
        Digest::of(&out).put(&mut out);
        for (_, bytes) in &self.sections {
            Put::put(&mut out, bytes);
        }
        out
    }
}

/// A file split into its sections, which are not decoded yet.
pub(super) struct Container<'a> {
    pub(super) architecture: Architecture,
    pub(super) hypervisor: HypervisorFamily,
    /// The CPU baseline's number, which the architecture's state gives a meaning.
    pub(super) baseline: u8,
    head: &'a [u8],
    head_digest: Digest,
    sections: Vec<Entry<'a>>,
}

struct Entry<'a> {
    tag: u16,
    digest: Digest,
    bytes: &'a [u8],
}

impl<'a> Container<'a> {
    pub(super) fn decode(file: &'a [u8]) -> Result<Self, SnapshotError> {
        let header = |source| SnapshotError::Header { source };
        let mut reader = Reader::new(file);
        if reader.array("magic") != Ok(MAGIC) {
            return Err(SnapshotError::NotASnapshot);
        }
        let found = reader.u16("version").map_err(header)?;
        if found != FORMAT_VERSION {
            return Err(SnapshotError::Version { found, supported: FORMAT_VERSION });
        }
        let architecture = Field::read("architecture", &mut reader).map_err(header)?;
        let hypervisor = Field::read("hypervisor", &mut reader).map_err(header)?;
        let baseline = Field::read("baseline", &mut reader).map_err(header)?;
        if reader.array("reserved").map_err(header)? != [0; 3] {
            return Err(header(reader.illegal("reserved", 1)));
        }
        let unknown = reader.u64("incompatible features").map_err(header)?;
        if unknown != 0 {
            return Err(SnapshotError::Features { unknown });
        }
        // Readers ignore these features.
        reader.u64("compatible features").map_err(header)?;
        let table = reader
            .list("section table", MAX_SECTIONS, TABLE_ENTRY_SIZE, read_table_entry)
            .map_err(header)?;
        #[expect(clippy::expect_used, reason = "a reader never moves past its input")]
        let head = file.get(..reader.offset()).expect("within the file");
        let head_digest = Field::read("header digest", &mut reader).map_err(header)?;
        let mut sections = Vec::with_capacity(table.len());
        for (tag, offset, length, digest) in table {
            if offset != reader.offset() {
                return Err(header(reader.illegal("section offset", offset as u64)));
            }
            let bytes = reader.bytes("section", length).map_err(header)?;
            sections.push(Entry { tag, digest, bytes });
        }
        reader.finish().map_err(header)?;
        Ok(Self { architecture, hypervisor, baseline, head, head_digest, sections })
    }

    pub(super) fn verify(&self) -> Result<(), SnapshotError> {
        if Digest::of(self.head) != self.head_digest {
            return Err(SnapshotError::Digest { section: "header" });
        }
        for entry in &self.sections {
            if Digest::of(entry.bytes) != entry.digest {
                return Err(SnapshotError::Digest { section: name_of(entry.tag) });
            }
        }
        Ok(())
    }

    /// Whether the file has this section.
    pub(super) fn has(&self, section: Section) -> bool {
        self.sections.iter().any(|entry| entry.tag == section as u16)
    }

    pub(super) fn section<T: Field>(&self, section: Section) -> Result<T, SnapshotError> {
        let name = section.name();
        self.read(section, |reader| T::read(name, reader))
    }

    /// Reads an optional section.
    pub(super) fn optional<T: Field>(&self, section: Section) -> Result<Option<T>, SnapshotError> {
        match self.section(section) {
            Err(SnapshotError::Missing { .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reads a section that is a list of at most `limit` items. The limit bounds items that take
    /// far more memory than bytes in the file.
    pub(super) fn list<T: Field>(
        &self,
        section: Section,
        limit: usize,
    ) -> Result<Vec<T>, SnapshotError> {
        let name = section.name();
        self.read(section, |reader| {
            reader.list(name, limit, T::MIN_SIZE, |item| T::read(name, item))
        })
    }

    fn read<T>(
        &self,
        section: Section,
        content: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<T, SnapshotError> {
        let name = section.name();
        let mut found = self.sections.iter().filter(|entry| entry.tag == section as u16);
        let entry = found.next().ok_or(SnapshotError::Missing { section: name })?;
        if found.next().is_some() {
            return Err(SnapshotError::Inconsistent { section: name, what: "a second copy" });
        }
        let malformed = |source| SnapshotError::Section { section: name, source };
        let mut reader = Reader::new(entry.bytes);
        let content = content(&mut reader).map_err(malformed)?;
        reader.finish().map_err(malformed)?;
        Ok(content)
    }
}

fn read_table_entry(reader: &mut Reader<'_>) -> Result<(u16, usize, usize, Digest), DecodeError> {
    let tag = reader.u16("section tag")?;
    let reserved = reader.u16("section reserved")?;
    if reserved != 0 {
        return Err(reader.illegal("section reserved", reserved.into()));
    }
    let offset = reader.u32("section offset")?;
    let length = reader.u64("section length")?;
    let digest = Field::read("section digest", reader)?;
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    Ok((tag, offset, length, digest))
}

fn name_of(tag: u16) -> &'static str {
    Section::ALL.into_iter().find(|section| *section as u16 == tag).map_or("unknown", Section::name)
}

/// The error of a section whose content contradicts itself or another section.
pub(super) fn inconsistent(section: Section, what: &'static str) -> SnapshotError {
    SnapshotError::Inconsistent { section: section.name(), what }
}
