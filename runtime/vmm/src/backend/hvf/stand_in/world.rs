//! What the stand-in knows: the host, its VM, and the VM's vCPUs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::thread::{self, ThreadId};

use super::Step;
use crate::arch::aarch64::layout::REDISTRIBUTORS_START;
use crate::backend::hvf::cpu::{Id, RawExit};

/// PC among the registers of a vCPU.
const PC: usize = 31;

/// Identification registers like those of an M1, with the bits that can be changed.
const IDENTIFICATION: [(u16, u64, u64); 10] = [
    (0xc000, 0x610f_0000, 0),                  // MIDR
    (0xc020, 0x1101_0000_0011_0011, u64::MAX), // PFR0
    (0xc021, 0x20, u64::MAX),                  // PFR1
    (0xc028, 0x1030_5006, 0),                  // DFR0
    (0xc029, 0, 0),                            // DFR1
    (0xc030, 0x0221_1001_1021_2120, u64::MAX), // ISAR0
    (0xc031, 0x0110_2112_1021_1402, u64::MAX), // ISAR1
    (0xc038, 0x0f10_0003, 0xf0_000f),          // MMFR0
    (0xc039, 0x1121_2120, u64::MAX),           // MMFR1
    (0xc03a, 0x1_0000_0111, u64::MAX),         // MMFR2
];

/// Other system registers.
const SYSTEM: [u16; 43] = [
    0x8010, 0x8012, 0xc005, 0xc080, 0xc081, 0xc082, 0xc100, 0xc101, 0xc102, 0xc108, 0xc109, 0xc10a,
    0xc10b, 0xc110, 0xc111, 0xc112, 0xc113, 0xc118, 0xc119, 0xc200, 0xc201, 0xc208, 0xc288, 0xc289,
    0xc290, 0xc300, 0xc3a0, 0xc510, 0xc518, 0xc600, 0xc681, 0xc684, 0xc687, 0xc708, 0xd000, 0xde82,
    0xde83, 0xde87, 0xdf11, 0xdf12, 0xdf19, 0xdf1a, 0xe208,
];

/// Registers of a CPU interface.
const INTERFACE: [u16; 9] =
    [0xc230, 0xc643, 0xc644, 0xc648, 0xc663, 0xc664, 0xc665, 0xc666, 0xc667];

/// The host.
pub(crate) struct World {
    /// The host's counter.
    pub(crate) now: u64,
    /// Bits of a guest's address that the host offers.
    pub(crate) most_bits: u32,
    /// Those of the last VM's; `None` if it had no configuration.
    pub(crate) bits: Option<u32>,
    pub(crate) has_vm: bool,
    /// What is mapped: the guest's address, the size, and the flags.
    pub(crate) windows: Vec<(u64, usize, u64)>,
    pub(crate) vcpus: BTreeMap<Id, Vcpu>,
    pub(crate) gic: Option<Gic>,
    /// The sizes of the distributor and of a redistributor.
    pub(crate) gic_sizes: (usize, usize),
    /// The lowest shared interrupt, and the number of them.
    pub(crate) gic_interrupts: (u32, u32),
    /// Where the redistributors are.
    pub(crate) redistributors: u64,
    pub(crate) ctr: u64,
    /// The bits of identification registers that can be changed.
    pub(crate) writable: HashMap<u16, u64>,
    /// System registers that new vCPUs lack.
    pub(crate) absent: Vec<u16>,
    /// What the next vCPU does.
    pub(crate) first_script: VecDeque<Step>,
    pub(crate) refusals: HashMap<&'static str, u32>,
    pub(crate) lacking: Vec<&'static str>,
    /// Objects that were created and not released, with their kinds.
    pub(crate) objects: BTreeMap<usize, Object>,
    pub(crate) log: Vec<&'static str>,
    next: usize,
}

/// An object that a program holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    VmConfig { bits: Option<u32> },
    VcpuConfig,
    GicConfig,
    GicState(Vec<u8>),
}

/// The interrupt controller.
#[derive(Debug)]
pub(crate) struct Gic {
    pub(crate) state: Vec<u8>,
    /// Levels that were sent.
    pub(crate) sent: Vec<(u32, bool)>,
    /// vCPUs have run since it had a state.
    pub(crate) is_live: bool,
}

/// A vCPU.
pub(crate) struct Vcpu {
    /// In the framework's order: X0 to X30, PC, FPCR, FPSR, CPSR.
    pub(crate) registers: [u64; 35],
    pub(crate) system: BTreeMap<u16, u64>,
    pub(crate) simd: [[u64; 2]; 32],
    pub(crate) interface: BTreeMap<u16, u64>,
    /// Registers of the redistributor that were written.
    pub(crate) redistributor: Vec<(u32, u64)>,
    pub(crate) offset: u64,
    pub(crate) is_timer_masked: bool,
    pub(crate) script: VecDeque<Step>,
    /// It is in the guest.
    pub(crate) is_inside: bool,
    /// How often it entered the guest.
    pub(crate) runs: usize,
    /// It is to leave the guest.
    pub(super) is_to_exit: bool,
    pub(super) owner: ThreadId,
    /// Where exits are described.
    pub(super) exit: Box<RawExit>,
}

impl World {
    pub(super) fn new() -> Self {
        let writable = IDENTIFICATION.iter().map(|(register, _, bits)| (*register, *bits));
        Self {
            now: 1_000_000,
            most_bits: 42,
            bits: None,
            has_vm: false,
            windows: Vec::new(),
            vcpus: BTreeMap::new(),
            gic: None,
            gic_sizes: (0x1_0000, 0x2_0000),
            gic_interrupts: (32, 988),
            redistributors: REDISTRIBUTORS_START,
            ctr: 0x8444_c004,
            writable: writable.collect(),
            absent: Vec::new(),
            first_script: VecDeque::new(),
            refusals: HashMap::new(),
            lacking: Vec::new(),
            objects: BTreeMap::new(),
            log: Vec::new(),
            next: 0x1000,
        }
    }

    pub(crate) fn vcpu(&mut self, id: Id) -> &mut Vcpu {
        self.vcpus.get_mut(&id).unwrap()
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> usize {
        self.next += 0x10;
        self.next
    }

    pub(super) fn add_vcpu(&mut self) -> (Id, *const RawExit) {
        let id = self.number() as Id;
        let debug = (0..16).flat_map(|number| (4..8).map(move |part| 0x8000 | number << 3 | part));
        let identification = IDENTIFICATION.iter().map(|(register, value, _)| (*register, *value));
        let zero = debug.chain(SYSTEM).map(|register| (register, 0));
        let script = std::mem::take(&mut self.first_script);
        let has = |(register, _): &(u16, u64)| !self.absent.contains(register);
        let vcpu = Vcpu {
            registers: [0; 35],
            system: zero.chain(identification).filter(has).collect(),
            simd: [[0; 2]; 32],
            interface: INTERFACE.iter().map(|register| (*register, 0)).collect(),
            redistributor: Vec::new(),
            offset: 0,
            is_timer_masked: false,
            script,
            is_inside: false,
            runs: 0,
            is_to_exit: false,
            owner: thread::current().id(),
            exit: Box::new(RawExit {
                reason: 0,
                syndrome: 0,
                virtual_address: 0,
                physical_address: 0,
            }),
        };
        let exit = &raw const *vcpu.exit;
        self.vcpus.insert(id, vcpu);
        (id, exit)
    }
}

impl Vcpu {
    pub(crate) fn pc(&self) -> u64 {
        self.registers[PC]
    }

    /// CNTV_CTL_EL0 or CNTP_CTL_EL0, with the bit that says whether the timer has fired.
    pub(super) fn timer_control(&self, register: u16, now: u64) -> u64 {
        let counter = if register == 0xdf19 { now.wrapping_sub(self.offset) } else { now };
        let has_fired = counter.wrapping_sub(self.system[&(register + 1)]).cast_signed() >= 0;
        let control = self.system[&register];
        if control & 1 == 1 && has_fired { control | 4 } else { control }
    }
}
