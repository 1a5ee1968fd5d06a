//! SPEC.md and the code agree on every number.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use supermachine_formats::codec::DecodeError;
use supermachine_formats::pack::{
    ARTIFACT_TYPE, CHUNK_SIZE, CHUNKS_TYPE, CONFIG_TYPE, INDEX_HEADER_SIZE, INDEX_MAGIC,
    INDEX_TYPE, INDEX_VERSION, MAX_BLOBS, MAX_INDEX_SIZE, MAX_LAYERS, MAX_PLACED, MAX_SPACES,
    MAX_STATE_SIZE, MAX_STORED, STATE_TYPE,
};
use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::{self, gic, processor};
use supermachine_formats::snapshot::arch::x86_64::baseline::{FeatureWord, MAX_FEATURE_WORDS};
use supermachine_formats::snapshot::arch::x86_64::{IOAPIC_PINS, LAPIC_SIZE, XSAVE_SIZE};
use supermachine_formats::snapshot::memory::PAGE_SIZE;
use supermachine_formats::snapshot::{
    Architecture, FORMAT_VERSION, HEADER_SIZE, MAGIC, MAX_SECTIONS, MAX_SLOTS, MAX_VCPUS, Section,
    TABLE_ENTRY_SIZE,
};
use supermachine_formats::wire::{
    self, Control, Datagram, Event, Input, Message, Reply, Request, Segment,
};

const SPEC: &str = include_str!("../SPEC.md");

/// Returns the rows of the table whose head starts with these cells.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let mut lines = SPEC.lines().skip_while(|line| !line.starts_with(head));
    assert!(lines.next().is_some(), "no table with the head {head}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Returns the kinds that a decoder knows.
fn kinds<M: Message>() -> Vec<u16> {
    let is_known = |kind: &u16| {
        !matches!(M::decode(*kind, &[]), Err(DecodeError::Illegal { field: "frame kind", .. }))
    };
    (0..=u16::MAX).filter(is_known).collect()
}

#[test]
fn every_section_is_in_the_spec_with_its_tag() {
    let specified: Vec<(u16, &str)> = table("| tag | section |")
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1]))
        .collect();
    let known: Vec<(u16, &str)> =
        Section::ALL.into_iter().map(|section| (section as u16, section.name())).collect();
    assert_eq!(specified, known);
}

#[test]
fn every_section_is_in_the_spec_with_its_architecture() {
    let specified = table("| tag | section |").into_iter().map(|row| {
        let words = row[3].trim_start_matches('[').split([']', '(']).next();
        words.unwrap().to_owned()
    });
    let known = Section::ALL.into_iter().map(|section| match section.architecture() {
        None => String::new(),
        Some(Architecture::X86_64) => "x86_64".into(),
        Some(Architecture::Aarch64) => "aarch64".into(),
    });
    assert_eq!(specified.collect::<Vec<_>>(), known.collect::<Vec<_>>());
}

/// The value of a register with the fields `NAME.FIELD=VALUE` of a text. Positions are those of the
/// architecture's manual, in the order of the spec's sets.
fn value(sets: &[&str], register: &str) -> u64 {
    const SHIFTS: &[(&str, u32)] = &[
        ("PFR0.EL0", 0),
        ("PFR0.EL1", 4),
        ("PFR0.FP", 16),
        ("PFR0.AdvSIMD", 20),
        ("PFR0.DIT", 48),
        ("ISAR0.AES", 4),
        ("ISAR0.SHA1", 8),
        ("ISAR0.SHA2", 12),
        ("ISAR0.CRC32", 16),
        ("ISAR0.Atomic", 20),
        ("ISAR0.RDM", 28),
        ("ISAR0.SHA3", 32),
        ("ISAR0.DP", 44),
        ("ISAR0.FHM", 48),
        ("ISAR0.TS", 52),
        ("ISAR1.DPB", 0),
        ("ISAR1.JSCVT", 12),
        ("ISAR1.FCMA", 16),
        ("ISAR1.LRCPC", 20),
        ("ISAR1.FRINTTS", 32),
        ("ISAR1.SB", 36),
        ("MMFR0.PARange", 0),
        ("MMFR0.TGran64", 24),
        ("MMFR1.PAN", 20),
        ("MMFR2.UAO", 4),
        ("MMFR2.AT", 32),
    ];
    let mut value = 0;
    for field in sets.iter().flat_map(|set| set.split(' ')) {
        let (name, number) = field.split_once('=').unwrap();
        let (_, shift) = SHIFTS.iter().find(|(known, _)| *known == name).unwrap();
        if name.split('.').next() == Some(register) {
            value = value & !(0xf << shift) | number.parse::<u64>().unwrap() << shift;
        }
    }
    value
}

#[test]
fn baselines_of_aarch64_equal_those_of_the_spec() {
    let rows = table("| set | fields |");
    let (base, more) = (rows[0][1], rows[1][1]);
    for (baseline, sets) in [(Baseline::Armv8_2, vec![base]), (Baseline::AppleM1, vec![base, more])]
    {
        let registers = baseline.id_registers();
        for (name, encoding) in [
            ("PFR0", processor::PFR0),
            ("ISAR0", processor::ISAR0),
            ("ISAR1", processor::ISAR1),
            ("ISAR2", processor::ISAR2),
            ("MMFR0", processor::MMFR0),
            ("MMFR1", processor::MMFR1),
            ("MMFR2", processor::MMFR2),
        ] {
            let found = registers.iter().find(|register| register.encoding == encoding).unwrap();
            assert_eq!(found.value, value(&sets, name), "{baseline} {name}");
        }
        assert_eq!(registers.len(), 7);
    }
}

#[test]
fn baselines_equal_those_of_the_spec() {
    let rows = table("| set | features |");
    let specified = |wanted: &[usize]| -> BTreeSet<String> {
        let texts = wanted.iter().map(|row| rows[*row][1]);
        texts.flat_map(|text| text.split(' ')).map(str::to_owned).collect()
    };
    let names = |words: Vec<FeatureWord>| words.iter().flat_map(FeatureWord::names).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(specified(&[0]), names(Baseline::V2.required()));
    assert_eq!(specified(&[0, 1]), names(Baseline::V3.required()));
    assert_eq!(specified(&[0, 2]), names(Baseline::V2.shown()));
    assert_eq!(specified(&[0, 1, 2]), names(Baseline::V3.shown()));
}

#[test]
fn every_message_is_in_the_spec_with_its_kind() {
    let specified: BTreeMap<u16, (&str, &str)> = table("| kind | message |")
        .into_iter()
        .map(|row| {
            let kind = u16::from_str_radix(row[0].trim_start_matches("0x"), 16).unwrap();
            (kind, (row[2], row[3]))
        })
        .collect();
    let mut known = BTreeMap::new();
    for (kinds, place) in [
        (kinds::<Control>(), ("control", "host")),
        (kinds::<Event>(), ("control", "agent")),
        (kinds::<Request>(), ("request", "host")),
        (kinds::<Input>(), ("request", "host")),
        (kinds::<Reply>(), ("request", "agent")),
        (kinds::<Segment>(), ("connection", "host")),
        (kinds::<Datagram>(), ("flow", "both")),
    ] {
        known.extend(kinds.into_iter().map(|kind| (kind, place)));
    }
    assert_eq!(specified, known);
}

#[test]
fn messages_without_fields_have_the_names_of_the_spec() {
    let rows = table("| kind | message |");
    let mut found = 0;
    for row in rows.iter().filter(|row| row[4].is_empty()) {
        let kind = u16::from_str_radix(row[0].trim_start_matches("0x"), 16).unwrap();
        let names = [
            Event::decode(kind, &[]).map(|message| format!("{message:?}")).ok(),
            Request::decode(kind, &[]).map(|message| format!("{message:?}")).ok(),
            Input::decode(kind, &[]).map(|message| format!("{message:?}")).ok(),
            Reply::decode(kind, &[]).map(|message| format!("{message:?}")).ok(),
            Segment::decode(kind, &[]).map(|message| format!("{message:?}")).ok(),
        ];
        assert!(names.iter().flatten().any(|name| name == row[1]), "{row:?}: {names:?}");
        found += 1;
    }
    assert_eq!(found, 12);
}

#[test]
fn sizes_and_limits_equal_those_of_the_spec() {
    let magic = std::str::from_utf8(&MAGIC).unwrap();
    let index_magic = std::str::from_utf8(&INDEX_MAGIC).unwrap();
    for text in [
        format!("| magic | `{magic}`;"),
        format!("| version | {FORMAT_VERSION};"),
        format!("header ({HEADER_SIZE}) · section table ({TABLE_ENTRY_SIZE} each)"),
        format!("| section count | at most {MAX_SECTIONS} |"),
        format!("`list of Vcpu`, at most {MAX_VCPUS},"),
        format!("`list of FeatureWord`, at most {MAX_FEATURE_WORDS},"),
        format!("`list of ArmVcpu`, at most {MAX_VCPUS},"),
        format!("`list of SystemRegister`, at most {} (the", processor::MAX_ID_REGISTERS),
        format!("can write, at most {};", aarch64::MAX_SYSTEM_REGISTERS),
        format!("interrupt controller, at most {} |", aarch64::MAX_SYSTEM_REGISTERS),
        format!("`x` `[u64; {}]`", aarch64::GENERAL_REGISTERS),
        format!("`v` `[[u64; 2]; {}]`", aarch64::SIMD_REGISTERS),
        format!("`state` `bytes`, at most {}:", gic::MAX_OPAQUE_SIZE),
        format!("multiple of {} from {0} to {};", gic::INTERRUPTS.0, gic::INTERRUPTS.1),
        format!("at most {} (offsets below {:#x})", gic::MAX_REGISTERS, gic::DISTRIBUTOR_SIZE),
        format!("0x{:x}) · `lines` `u32`", gic::REDISTRIBUTOR_SIZE),
        format!("`list of Slot`, at most {MAX_SLOTS} |"),
        format!("`list of Disk`, at most {MAX_SLOTS} |"),
        format!("`[u8; {LAPIC_SIZE}]?` | lapic"),
        format!("`[u8; {XSAVE_SIZE}]?` | xsave"),
        format!("`pins` `[u64; {IOAPIC_PINS}]`"),
        format!("A page is {PAGE_SIZE} bytes."),
        format!("| magic | `{index_magic}`;"),
        format!("| version | {INDEX_VERSION}; else refused"),
        format!("| {INDEX_HEADER_SIZE} | `list of Blob` | blobs | at most {MAX_BLOBS};"),
        format!("| disks | at most {};", MAX_SPACES - 1),
        format!("`layers` `list of Layer`, at most {MAX_LAYERS},"),
        format!("of the chunk's {CHUNK_SIZE} bytes"),
        format!("A chunk is {CHUNK_SIZE} bytes of a space"),
        format!("bytes of its frame, 1 to {MAX_STORED} |"),
        format!("have at most {MAX_PLACED} chunks together"),
        format!(
            "| state | `{STATE_TYPE}` | the [state file](#state-file) | {} MiB |",
            MAX_STATE_SIZE >> 20
        ),
        format!(
            "| index | `{INDEX_TYPE}` | which chunks there are, and where they belong | {} MiB |",
            MAX_INDEX_SIZE >> 20
        ),
        format!("| config | `{CONFIG_TYPE}` |"),
        format!("| chunks | `{CHUNKS_TYPE}` |"),
        format!("ARTIFACT is `{ARTIFACT_TYPE}`;"),
        format!("Version {}. Streams", wire::VERSION),
        format!("of the payload; at most {} |", wire::MAX_PAYLOAD),
        format!("| {} | host | the control stream", wire::CONTROL_PORT),
        format!("| {} | agent | one stream a request", wire::REQUEST_PORT),
        format!("the bytes themselves, at most {} |", wire::MAX_CHUNK),
        format!("one datagram, at most {} |", wire::MAX_DATAGRAM),
        format!("`name`: `text` of at most {} bytes", wire::MAX_NAME),
        format!("at most {}, each without a zero byte", wire::MAX_STRINGS),
        format!("`entropy` `[u8; {}]`", wire::ENTROPY_SIZE),
    ] {
        assert!(SPEC.contains(&text), "SPEC.md lacks: {text}");
    }
}
