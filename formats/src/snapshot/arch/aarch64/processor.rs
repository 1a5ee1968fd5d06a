//! What a snapshot requires of the host's processor, in terms of the identification registers.
//!
//! Each of these registers consists of fields, mostly of four bits, whose greater values mean more.
//! A guest sees their values at boot and relies on them ever after. So a host can continue it if no
//! field of the host's is less. A named baseline fixes the values; a hypervisor that cannot show
//! other values than its own leaves some fields as they are, which the snapshot then records.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::vcpu::{SystemRegister, encoding, rises};
use crate::record::record;
use crate::snapshot::arch::{Baseline, Features};

/// The most identification registers of a snapshot.
pub const MAX_ID_REGISTERS: usize = 64;

/// ID_AA64PFR0_EL1.
pub const PFR0: u16 = encoding(3, 0, 0, 4, 0);
/// ID_AA64PFR1_EL1.
pub const PFR1: u16 = encoding(3, 0, 0, 4, 1);
/// ID_AA64ISAR0_EL1.
pub const ISAR0: u16 = encoding(3, 0, 0, 6, 0);
/// ID_AA64ISAR1_EL1.
pub const ISAR1: u16 = encoding(3, 0, 0, 6, 1);
/// ID_AA64ISAR2_EL1.
pub const ISAR2: u16 = encoding(3, 0, 0, 6, 2);
/// ID_AA64MMFR0_EL1.
pub const MMFR0: u16 = encoding(3, 0, 0, 7, 0);
/// ID_AA64MMFR1_EL1.
pub const MMFR1: u16 = encoding(3, 0, 0, 7, 1);
/// ID_AA64MMFR2_EL1.
pub const MMFR2: u16 = encoding(3, 0, 0, 7, 2);
/// CTR_EL0, the cache type.
pub const CTR: u16 = encoding(3, 3, 0, 0, 1);

record! {
    /// What a snapshot requires of the host's processor.
    pub struct Processor {
        /// The baseline of its bake.
        baseline: Baseline,
        /// MIDR_EL1: the core that the guest booted on; 0 if it was never run.
        midr: u64,
        /// The identification registers that the guest sees, by rising encoding; none if it was
        /// never run.
        registers: Vec<SystemRegister>,
    }
}

/// A register of a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaselineRegister {
    /// Its [`encoding`].
    pub encoding: u16,
    /// The value that a guest sees.
    pub value: u64,
    /// The bits that the baseline fixes. The guest sees the host's own in the others.
    pub fixed: u64,
}

/// How the values of a field compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// More is more.
    Unsigned,
    /// More is more, and all ones is less than zero: the feature is absent.
    Signed,
    /// Less is more: what the field counts is a duty of software.
    Reversed,
    /// Describes something that no guest depends on.
    Any,
}

struct Field {
    register: u16,
    shift: u32,
    width: u32,
    order: Order,
    name: &'static str,
}

const fn field(register: u16, shift: u32, order: Order, name: &'static str) -> Field {
    Field { register, shift, width: 4, order, name }
}

const fn feature(register: u16, shift: u32, name: &'static str) -> Field {
    field(register, shift, Order::Unsigned, name)
}

/// Fields with names, and those that are not unsigned numbers of four bits.
const FIELDS: &[Field] = &[
    feature(PFR0, 0, "PFR0.EL0"),
    feature(PFR0, 4, "PFR0.EL1"),
    // Levels above the guest's own.
    field(PFR0, 8, Order::Any, "PFR0.EL2"),
    field(PFR0, 12, Order::Any, "PFR0.EL3"),
    field(PFR0, 16, Order::Signed, "PFR0.FP"),
    field(PFR0, 20, Order::Signed, "PFR0.AdvSIMD"),
    feature(PFR0, 24, "PFR0.GIC"),
    feature(PFR0, 28, "PFR0.RAS"),
    feature(PFR0, 32, "PFR0.SVE"),
    feature(PFR0, 48, "PFR0.DIT"),
    feature(PFR0, 56, "PFR0.CSV2"),
    feature(PFR0, 60, "PFR0.CSV3"),
    feature(PFR1, 0, "PFR1.BT"),
    feature(PFR1, 4, "PFR1.SSBS"),
    feature(PFR1, 8, "PFR1.MTE"),
    feature(ISAR0, 4, "ISAR0.AES"),
    feature(ISAR0, 8, "ISAR0.SHA1"),
    feature(ISAR0, 12, "ISAR0.SHA2"),
    feature(ISAR0, 16, "ISAR0.CRC32"),
    feature(ISAR0, 20, "ISAR0.Atomic"),
    feature(ISAR0, 28, "ISAR0.RDM"),
    feature(ISAR0, 32, "ISAR0.SHA3"),
    feature(ISAR0, 36, "ISAR0.SM3"),
    feature(ISAR0, 40, "ISAR0.SM4"),
    feature(ISAR0, 44, "ISAR0.DP"),
    feature(ISAR0, 48, "ISAR0.FHM"),
    feature(ISAR0, 52, "ISAR0.TS"),
    feature(ISAR0, 56, "ISAR0.TLB"),
    feature(ISAR0, 60, "ISAR0.RNDR"),
    feature(ISAR1, 0, "ISAR1.DPB"),
    feature(ISAR1, 4, "ISAR1.APA"),
    feature(ISAR1, 8, "ISAR1.API"),
    feature(ISAR1, 12, "ISAR1.JSCVT"),
    feature(ISAR1, 16, "ISAR1.FCMA"),
    feature(ISAR1, 20, "ISAR1.LRCPC"),
    feature(ISAR1, 24, "ISAR1.GPA"),
    feature(ISAR1, 28, "ISAR1.GPI"),
    feature(ISAR1, 32, "ISAR1.FRINTTS"),
    feature(ISAR1, 36, "ISAR1.SB"),
    feature(ISAR1, 40, "ISAR1.SPECRES"),
    feature(ISAR1, 44, "ISAR1.BF16"),
    feature(ISAR1, 52, "ISAR1.I8MM"),
    feature(ISAR2, 16, "ISAR2.MOPS"),
    feature(MMFR0, 0, "MMFR0.PARange"),
    feature(MMFR0, 4, "MMFR0.ASIDBits"),
    feature(MMFR0, 20, "MMFR0.TGran16"),
    field(MMFR0, 24, Order::Signed, "MMFR0.TGran64"),
    field(MMFR0, 28, Order::Signed, "MMFR0.TGran4"),
    // The second stage of translation is the hypervisor's.
    field(MMFR0, 32, Order::Any, "MMFR0.TGran16_2"),
    field(MMFR0, 36, Order::Any, "MMFR0.TGran64_2"),
    field(MMFR0, 40, Order::Any, "MMFR0.TGran4_2"),
    feature(MMFR1, 0, "MMFR1.HAFDBS"),
    field(MMFR1, 4, Order::Any, "MMFR1.VMIDBits"),
    field(MMFR1, 8, Order::Any, "MMFR1.VH"),
    feature(MMFR1, 12, "MMFR1.HPDS"),
    feature(MMFR1, 16, "MMFR1.LO"),
    feature(MMFR1, 20, "MMFR1.PAN"),
    field(MMFR1, 24, Order::Any, "MMFR1.SpecSEI"),
    field(MMFR1, 28, Order::Any, "MMFR1.XNX"),
    feature(MMFR2, 0, "MMFR2.CnP"),
    feature(MMFR2, 4, "MMFR2.UAO"),
    feature(MMFR2, 8, "MMFR2.LSM"),
    feature(MMFR2, 12, "MMFR2.IESB"),
    feature(MMFR2, 16, "MMFR2.VARange"),
    feature(MMFR2, 20, "MMFR2.CCIDX"),
    feature(MMFR2, 32, "MMFR2.AT"),
    // Lines in caches: software steps by the guest's, so a host's may be longer, not shorter.
    field(CTR, 0, Order::Unsigned, "CTR.IminLine"),
    Field { register: CTR, shift: 14, width: 2, order: Order::Unsigned, name: "CTR.L1Ip" },
    field(CTR, 16, Order::Unsigned, "CTR.DminLine"),
    // Granules: software keeps that far apart.
    field(CTR, 20, Order::Reversed, "CTR.ERG"),
    field(CTR, 24, Order::Reversed, "CTR.CWG"),
    Field { register: CTR, shift: 28, width: 1, order: Order::Unsigned, name: "CTR.IDC" },
    Field { register: CTR, shift: 29, width: 1, order: Order::Unsigned, name: "CTR.DIC" },
    Field { register: CTR, shift: 32, width: 6, order: Order::Unsigned, name: "CTR.TminLine" },
];

/// Registers of a baseline with their least values. A field that is not listed is absent.
type Set = &'static [(&'static str, u64)];

/// Armv8.2-A, with what all its server processors and Apple's have.
const ARMV8_2: Set = &[
    ("PFR0.EL0", 1),
    ("PFR0.EL1", 1),
    ("PFR0.FP", 1),
    ("PFR0.AdvSIMD", 1),
    ("ISAR0.AES", 2),
    ("ISAR0.SHA1", 1),
    ("ISAR0.SHA2", 1),
    ("ISAR0.CRC32", 1),
    ("ISAR0.Atomic", 2),
    ("ISAR0.RDM", 1),
    ("ISAR0.DP", 1),
    ("ISAR1.DPB", 1),
    ("ISAR1.LRCPC", 1),
    ("MMFR0.PARange", 1),
    ("MMFR1.PAN", 1),
    ("MMFR2.UAO", 1),
];

/// What Apple's M1 adds.
const APPLE_M1: Set = &[
    ("PFR0.DIT", 1),
    ("ISAR0.SHA2", 2),
    ("ISAR0.SHA3", 1),
    ("ISAR0.FHM", 1),
    ("ISAR0.TS", 2),
    ("ISAR1.DPB", 2),
    ("ISAR1.JSCVT", 1),
    ("ISAR1.FCMA", 1),
    ("ISAR1.LRCPC", 2),
    ("ISAR1.FRINTTS", 1),
    ("ISAR1.SB", 1),
    ("MMFR2.AT", 1),
];

/// The registers that a baseline fixes, and the fields of each that stay the host's: what the
/// hypervisor decides, and what no guest depends on.
const FIXED: &[(u16, u64)] = &[
    (PFR0, mask(8) | mask(12) | mask(24) | mask(28)),
    (ISAR0, 0),
    (ISAR1, 0),
    (ISAR2, 0),
    // 4 KiB granules only, which is what a signed zero says; the stages of the hypervisor.
    (MMFR0, mask(4) | mask(32) | mask(36) | mask(40)),
    (MMFR1, mask(4) | mask(8) | mask(24) | mask(28)),
    (MMFR2, 0),
];

/// MMFR0.TGran64: no granules of 64 KiB.
const NO_LARGE_GRANULE: u64 = 0xf << 24;

const fn mask(shift: u32) -> u64 {
    0xf << shift
}

impl Baseline {
    /// The identification registers that a guest of this baseline sees. Empty for
    /// [`Baseline::Host`], whose guest sees the host's, and for other architectures.
    #[must_use]
    pub fn id_registers(self) -> Vec<BaselineRegister> {
        let sets: &[Set] = match self {
            Self::Armv8_2 => &[ARMV8_2],
            Self::AppleM1 => &[ARMV8_2, APPLE_M1],
            _ => return Vec::new(),
        };
        let register = |&(encoding, hosts): &(u16, u64)| {
            let start = if encoding == MMFR0 { NO_LARGE_GRANULE } else { 0 };
            let value =
                sets.iter().flat_map(|set| set.iter()).fold(start, |value, (name, least)| {
                    let named = FIELDS.iter().find(|field| field.name == *name);
                    named
                        .filter(|field| field.register == encoding)
                        .map_or(value, |field| (value & !field.mask()) | (*least << field.shift))
                });
            BaselineRegister { encoding, value, fixed: !hosts }
        };
        FIXED.iter().map(register).collect()
    }
}

impl Processor {
    /// The requirements of a snapshot that was never run.
    #[must_use]
    pub fn of(baseline: Baseline) -> Self {
        Self { baseline, midr: 0, registers: Vec::new() }
    }

    /// What a host lacks to continue the guest. `host` reads one of its registers; `None` stands
    /// for a register that it does not have, all of whose fields are zero.
    #[must_use]
    pub fn missing(&self, host: impl Fn(u16) -> Option<u64>) -> Features {
        let baseline = self.baseline.id_registers();
        let wanted: Vec<(u16, u64)> = if self.registers.is_empty() {
            baseline.iter().map(|register| (register.encoding, register.value)).collect()
        } else {
            self.registers.iter().map(|register| (register.encoding, register.value)).collect()
        };
        let lacking = wanted
            .into_iter()
            .flat_map(|(register, wanted)| lacking(register, wanted, host(register).unwrap_or(0)));
        Features(lacking.collect())
    }

    /// The named fields of the registers that a guest relies on, as `NAME=VALUE`.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        let named = FIELDS.iter().filter(|field| field.order != Order::Any);
        let shown = named.filter_map(|field| {
            let value = field.value(self.wanted(field.register)?);
            (value != 0).then(|| format!("{}={value}", field.name))
        });
        shown.collect()
    }

    /// The value that the guest sees, or will see, in a register.
    fn wanted(&self, encoding: u16) -> Option<u64> {
        if self.registers.is_empty() {
            let baseline = self.baseline.id_registers();
            let found = baseline.iter().find(|register| register.encoding == encoding);
            return found.map(|register| register.value);
        }
        self.register(encoding)
    }

    /// The register that a guest sees, if it was run.
    #[must_use]
    pub fn register(&self, encoding: u16) -> Option<u64> {
        let found = self.registers.iter().find(|register| register.encoding == encoding);
        found.map(|register| register.value)
    }

    /// Whether the registers are in order, and are registers that identify something.
    pub(super) fn is_valid(&self) -> bool {
        self.registers.len() <= MAX_ID_REGISTERS
            && rises(&self.registers)
            && self.registers.iter().all(|register| is_identification(register.encoding))
    }
}

/// Whether a register only describes the processor.
#[must_use]
pub fn is_identification(register: u16) -> bool {
    let first = encoding(3, 0, 0, 1, 0);
    let last = encoding(3, 0, 0, 7, 7);
    (first..=last).contains(&register) || register == CTR
}

/// Names the fields in which `host` has less than `wanted`.
fn lacking(register: u16, wanted: u64, host: u64) -> Vec<String> {
    let named = FIELDS.iter().filter(|field| field.register == register);
    let named: Vec<&Field> = named.collect();
    let mut out: Vec<String> =
        named.iter().filter_map(|field| field.lacking(wanted, host)).collect();
    // Fields without a name, in every register but CTR, whose fields have other widths.
    if register != CTR {
        let unnamed = (0..u64::BITS)
            .step_by(4)
            .filter(|shift| named.iter().all(|field| field.shift != *shift));
        out.extend(unnamed.filter_map(|shift| {
            let [wanted, host] = [wanted, host].map(|value| value >> shift & 0xf);
            let [op1, crn, crm, op2] =
                [(11, 7), (7, 15), (3, 15), (0, 7)].map(|(shift, mask)| register >> shift & mask);
            (host < wanted).then(|| {
                format!("S3_{op1}_C{crn}_C{crm}_{op2}[{shift}] {wanted} (host has {host})")
            })
        }));
    }
    out
}

impl Field {
    fn mask(&self) -> u64 {
        ((1 << self.width) - 1) << self.shift
    }

    fn value(&self, register: u64) -> u64 {
        (register & self.mask()) >> self.shift
    }

    /// The field's name and values, if `host` has less of it than `wanted`.
    fn lacking(&self, wanted: u64, host: u64) -> Option<String> {
        let [wanted, host] = [wanted, host].map(|register| self.value(register));
        let absent = (1 << self.width) - 1;
        let has_less = match self.order {
            Order::Unsigned => host < wanted,
            Order::Signed => wanted != absent && (host == absent || host < wanted),
            Order::Reversed => host > wanted,
            Order::Any => false,
        };
        has_less.then(|| format!("{} {wanted} (host has {host})", self.name))
    }
}
