//! PSCI, the firmware calls by which a guest's kernel starts and stops processors and the machine.
//!
//! Numbers are those of Arm's "Power State Coordination Interface" (DEN0022) and "SMC Calling
//! Convention" (DEN0028). What a call does to the calling vCPU is left to [`vcpu`](super::vcpu).

use supermachine_formats::snapshot::arch::aarch64::AFFINITY;

use super::presence::{Peers, Power, Start};

/// What a call amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The call returns this value.
    Return(i64),
    /// The calling vCPU waits for an interrupt; then the call succeeds.
    Suspend,
    /// The calling vCPU is off, and the call does not return.
    Off,
    /// The machine is off, or starts anew: its guest is done.
    Shutdown,
}

pub(super) const SUCCESS: i64 = 0;
pub(super) const NOT_SUPPORTED: i64 = -1;
pub(super) const INVALID_PARAMETERS: i64 = -2;
pub(super) const ALREADY_ON: i64 = -4;
pub(super) const ON_PENDING: i64 = -5;
pub(super) const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO's answers.
pub(super) const INFO_ON: i64 = 0;
pub(super) const INFO_OFF: i64 = 1;
pub(super) const INFO_ON_PENDING: i64 = 2;

/// MIGRATE_INFO_TYPE: there is no trusted system that would have to move.
const NOTHING_TO_MIGRATE: i64 = 2;
/// PSCI 1.0, which the device tree says too.
const VERSION: i64 = 1 << 16;
/// The calling convention's version 1.1.
const CONVENTION: i64 = 1 << 16 | 1;

/// The functions, without the bit that tells calls of 64 bits from those of 32.
const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_FEATURES: u32 = 0x8400_000a;
const SMCCC_VERSION: u32 = 0x8000_0000;

/// Calls whose arguments have 64 bits.
const WIDE: u32 = 1 << 30;

/// Serves a call with this function and arguments (X0, and X1 to X3) by one of `peers`.
pub(super) fn call(peers: &Peers, function: u32, arguments: [u64; 3]) -> Outcome {
    let is_wide = function & WIDE != 0;
    if !is_function(function) {
        return Outcome::Return(NOT_SUPPORTED);
    }
    let [first, second, third] =
        arguments.map(|value| if is_wide { value } else { value & u64::from(u32::MAX) });
    match function & !WIDE {
        PSCI_VERSION => Outcome::Return(VERSION),
        SMCCC_VERSION => Outcome::Return(CONVENTION),
        MIGRATE_INFO_TYPE => Outcome::Return(NOTHING_TO_MIGRATE),
        PSCI_FEATURES => Outcome::Return(features(first)),
        CPU_SUSPEND => Outcome::Suspend,
        CPU_OFF => Outcome::Off,
        CPU_ON => Outcome::Return(start(peers, first, Start { entry: second, context: third })),
        AFFINITY_INFO => Outcome::Return(affinity_info(peers, first, second)),
        SYSTEM_OFF | SYSTEM_RESET => Outcome::Shutdown,
        _ => Outcome::Return(NOT_SUPPORTED),
    }
}

/// Whether there is a function of this number. Only those with addresses among their arguments have
/// a form of 64 bits.
fn is_function(function: u32) -> bool {
    match function & !WIDE {
        CPU_SUSPEND | CPU_ON | AFFINITY_INFO => true,
        PSCI_VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET | PSCI_FEATURES
        | SMCCC_VERSION => function & WIDE == 0,
        _ => false,
    }
}

fn features(function: u64) -> i64 {
    let known = u32::try_from(function).is_ok_and(is_function);
    if known { SUCCESS } else { NOT_SUPPORTED }
}

fn start(peers: &Peers, affinity: u64, start: Start) -> i64 {
    if affinity & !AFFINITY != 0 {
        return INVALID_PARAMETERS;
    }
    let Some(peer) = peers.find(affinity) else { return INVALID_PARAMETERS };
    if !start.entry.is_multiple_of(4) {
        return INVALID_ADDRESS;
    }
    match peer.start(start) {
        Power::Off => SUCCESS,
        Power::On => ALREADY_ON,
        Power::Starting(_) => ON_PENDING,
    }
}

fn affinity_info(peers: &Peers, affinity: u64, level: u64) -> i64 {
    let level = u32::try_from(level).ok().filter(|level| *level <= 3);
    let Some(level) = level.filter(|_| affinity & !AFFINITY == 0) else {
        return INVALID_PARAMETERS;
    };
    let powers = peers.powers(affinity, level);
    if powers.is_empty() {
        return INVALID_PARAMETERS;
    }
    if powers.contains(&Power::On) {
        return INFO_ON;
    }
    let is_starting = powers.iter().any(|power| matches!(power, Power::Starting(_)));
    if is_starting { INFO_ON_PENDING } else { INFO_OFF }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::presence::Presence;
    use super::*;

    const CPU_ON_64: u32 = CPU_ON | WIDE;

    /// The first vCPU of two clusters of two is on.
    fn peers() -> Peers {
        let peers = Peers::default();
        for affinity in [0, 1, 0x100, 0x101] {
            peers.add(Arc::new(Presence::new(affinity, affinity)));
        }
        peers.find(0).unwrap().set_power(Power::On);
        peers
    }

    fn value(peers: &Peers, function: u32, arguments: [u64; 3]) -> i64 {
        match call(peers, function, arguments) {
            Outcome::Return(value) => value,
            other => panic!("{function:#x}: {other:?}"),
        }
    }

    #[test]
    fn versions_and_features_are_those_of_psci_1_0() {
        let peers = peers();
        assert_eq!(value(&peers, PSCI_VERSION, [0; 3]), 0x1_0000);
        assert_eq!(value(&peers, SMCCC_VERSION, [0; 3]), 0x1_0001);
        assert_eq!(value(&peers, MIGRATE_INFO_TYPE, [0; 3]), 2);
        for known in [CPU_ON, CPU_ON_64, CPU_OFF, SYSTEM_RESET, SMCCC_VERSION, PSCI_FEATURES] {
            assert_eq!(value(&peers, PSCI_FEATURES, [known.into(), 0, 0]), SUCCESS, "{known:#x}");
        }
        // MIGRATE, SYSTEM_SUSPEND, CPU_OFF of 64 bits, and nonsense.
        for unknown in [0x8400_0005, 0xc400_000e, 0xc400_0002, 7] {
            let answer = value(&peers, PSCI_FEATURES, [unknown, 0, 0]);
            assert_eq!(answer, NOT_SUPPORTED, "{unknown:#x}");
        }
    }

    #[test]
    fn unknown_functions_are_not_supported() {
        let peers = peers();
        // MIGRATE, the convention's features, random numbers, KVM's own, 64 bits of PSCI_VERSION.
        for unknown in [0x8400_0005, 0x8000_0001, 0x8400_0050, 0x8600_ff01, 0xc400_0000, 0, 7] {
            assert_eq!(value(&peers, unknown, [0; 3]), NOT_SUPPORTED, "{unknown:#x}");
        }
    }

    #[test]
    fn cpu_on_starts_a_processor_that_is_off_once() {
        let peers = peers();
        let start = Start { entry: 0x4008_0000, context: 7 };
        assert_eq!(value(&peers, CPU_ON_64, [0x101, start.entry, 7]), SUCCESS);
        let other = peers.find(0x101).unwrap();
        assert_eq!(other.power(), Power::Starting(start));
        assert_eq!(value(&peers, CPU_ON_64, [0x101, 0, 8]), ON_PENDING);
        assert_eq!(other.take_start(), Some(start));
        assert_eq!(other.take_start(), None);
        assert_eq!(value(&peers, CPU_ON_64, [0x101, 0, 8]), ALREADY_ON);
    }

    #[test]
    fn cpu_on_with_bad_arguments_starts_nothing() {
        let peers = peers();
        for (arguments, expected) in [
            ([2, 0, 0], INVALID_PARAMETERS),
            ([1 << 31 | 1, 0, 0], INVALID_PARAMETERS),
            ([1 << 32 | 1, 0, 0], INVALID_PARAMETERS),
            ([u64::MAX, 0, 0], INVALID_PARAMETERS),
            ([1, 0x4008_0002, 0], INVALID_ADDRESS),
            ([0, 0x4008_0000, 0], ALREADY_ON),
        ] {
            assert_eq!(value(&peers, CPU_ON_64, arguments), expected, "{arguments:x?}");
        }
        assert_eq!(peers.find(1).unwrap().power(), Power::Off);
    }

    #[test]
    fn call_of_32_bits_ignores_the_upper_halves_of_its_arguments() {
        let peers = peers();
        let high = 0xffff_ffff << 32;
        assert_eq!(value(&peers, CPU_ON, [high | 1, high | 0x1000, high | 5]), SUCCESS);
        let expected = Power::Starting(Start { entry: 0x1000, context: 5 });
        assert_eq!(peers.find(1).unwrap().power(), expected);
    }

    #[test]
    fn affinity_info_answers_for_a_processor_or_a_cluster() {
        let peers = peers();
        let info = |affinity, level| value(&peers, AFFINITY_INFO | WIDE, [affinity, level, 0]);
        assert_eq!([info(0, 0), info(1, 0)], [INFO_ON, INFO_OFF]);
        assert_eq!([info(0, 1), info(0x100, 1), info(0, 2)], [INFO_ON, INFO_OFF, INFO_ON]);
        peers.find(0x100).unwrap().start(Start { entry: 0, context: 0 });
        assert_eq!([info(0x100, 0), info(0x1ff, 1)], [INFO_ON_PENDING, INFO_ON_PENDING]);
        for (affinity, level) in [(2, 0), (0x200, 1), (0, 4), (0, 1 << 32), (1 << 24, 0)] {
            assert_eq!(info(affinity, level), INVALID_PARAMETERS, "{affinity:#x} {level}");
        }
    }

    #[test]
    fn calls_that_stop_the_caller_are_left_to_it() {
        let peers = peers();
        let outcome = |function| call(&peers, function, [0; 3]);
        assert_eq!(outcome(CPU_OFF), Outcome::Off);
        assert_eq!(outcome(CPU_SUSPEND), Outcome::Suspend);
        assert_eq!(outcome(CPU_SUSPEND | WIDE), Outcome::Suspend);
        assert_eq!(outcome(SYSTEM_OFF), Outcome::Shutdown);
        assert_eq!(outcome(SYSTEM_RESET), Outcome::Shutdown);
    }
}
