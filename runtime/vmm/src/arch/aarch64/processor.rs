//! The identification registers of a guest, and whether a host fits them.

use supermachine_formats::snapshot::arch::Baseline;
use supermachine_formats::snapshot::arch::aarch64::{Processor, State, SystemRegister};

use crate::arch::mismatch::Mismatch;

/// What a host's processor and hypervisor show to guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// MIDR_EL1.
    pub(crate) midr: u64,
    /// The identification registers, and the bits of each that a guest may be shown otherwise.
    pub(crate) registers: Vec<(SystemRegister, u64)>,
    /// The counter's frequency in Hz.
    pub(crate) frequency_hz: u32,
}

impl Host {
    /// The value of a register; `None` if guests have none.
    pub(crate) fn register(&self, encoding: u16) -> Option<u64> {
        let found = self.registers.iter().find(|(register, _)| register.encoding == encoding);
        found.map(|(register, _)| register.value)
    }
}

/// Refuses a state that this host cannot continue.
pub(crate) fn check(state: &State, host: &Host) -> Result<(), Mismatch> {
    let State { processor, counter, .. } = state;
    if counter.frequency_hz != 0 && counter.frequency_hz != host.frequency_hz {
        let (found, host) = (counter.frequency_hz, host.frequency_hz);
        return Err(Mismatch::CounterFrequency { found, host });
    }
    let missing = processor.missing(|register| host.register(register));
    if !missing.0.is_empty() {
        return Err(Mismatch::Features { baseline: processor.baseline, missing });
    }
    let was_run = processor.midr != 0;
    if processor.baseline == Baseline::Host && was_run && core(processor.midr) != core(host.midr) {
        let (found, host) = (core_name(processor.midr), core_name(host.midr));
        return Err(Mismatch::Vendor { found, host });
    }
    Ok(())
}

/// Gives a machine that was never run the identification registers of its baseline, as far as this
/// host can show them.
pub(crate) fn complete(state: &mut State, host: &Host) {
    let processor = &mut state.processor;
    if !processor.registers.is_empty() {
        return;
    }
    let baseline = processor.baseline.id_registers();
    let shown = host.registers.iter().map(|(register, writable)| {
        let wanted = baseline.iter().find(|wanted| wanted.encoding == register.encoding);
        let value = wanted.map_or(register.value, |wanted| {
            let bits = wanted.fixed & writable;
            (register.value & !bits) | (wanted.value & bits)
        });
        SystemRegister { value, ..*register }
    });
    processor.registers = shown.collect();
}

/// Implementer and part number.
fn core(midr: u64) -> (u64, u64) {
    (midr >> 24 & 0xff, midr >> 4 & 0xfff)
}

fn core_name(midr: u64) -> String {
    let (implementer, part) = core(midr);
    format!("implementer {implementer:#x}, part {part:#x}")
}

/// What a captured machine requires: what the guest was shown.
pub(crate) fn required(origin: &Processor, shown: Option<&Processor>) -> Processor {
    let Some(shown) = shown else { return origin.clone() };
    // The guest's kernel looks at the core once, when it boots.
    let midr = if origin.midr == 0 { shown.midr } else { origin.midr };
    Processor { baseline: origin.baseline, midr, registers: shown.registers.clone() }
}

#[cfg(test)]
mod tests {
    use supermachine_formats::snapshot::arch::aarch64::processor::{ISAR0, PFR0};
    use supermachine_formats::snapshot::arch::aarch64::{Counter, Gic};

    use super::*;
    use crate::error::MachineError;

    const N1: u64 = 0x413f_d0c1;
    const V1: u64 = 0x411f_d401;

    fn host() -> Host {
        let register = |encoding, value| SystemRegister { encoding, value };
        Host {
            midr: N1,
            registers: vec![
                (register(PFR0, 0x1000_0000_1111_1112), !(0xf << 28)),
                (register(ISAR0, 0x0001_1000_1021_2120), u64::MAX),
            ],
            frequency_hz: 1_000_000_000,
        }
    }

    fn state(baseline: Baseline) -> State {
        State {
            processor: Processor::of(baseline),
            vcpus: Vec::new(),
            gic: Gic::reset(64),
            counter: Counter { value: 0, frequency_hz: 0, realtime_ns: 0 },
        }
    }

    #[test]
    fn never_run_machine_sees_its_baseline_as_far_as_the_host_can_show_it() {
        let mut state = state(Baseline::Armv8_2);
        complete(&mut state, &host());
        // 32-bit programs and CSV3 are hidden. Errors are reported as on the host, which cannot
        // hide that; levels above the guest's and the interface to interrupts are the host's.
        assert_eq!(state.processor.register(PFR0), Some(0x1111_1111));
        assert_eq!(state.processor.register(ISAR0), Some(0x0000_1000_1021_1120));
        let mut own = self::state(Baseline::Host);
        complete(&mut own, &host());
        assert_eq!(own.processor.register(ISAR0), host().register(ISAR0));
    }

    #[test]
    fn run_machine_keeps_the_registers_that_it_was_shown() {
        let mut state = state(Baseline::Armv8_2);
        state.processor.registers = vec![SystemRegister { encoding: ISAR0, value: 1 }];
        let before = state.clone();
        complete(&mut state, &host());
        assert_eq!(state, before);
    }

    #[test]
    fn host_that_lacks_a_feature_is_refused_by_name() {
        let mut host = host();
        host.registers[1].0.value &= !0xf0;
        let mut snapshot = state(Baseline::Host);
        snapshot.processor.midr = N1;
        snapshot.processor.registers = vec![SystemRegister { encoding: ISAR0, value: 0x20 }];
        let Err(Mismatch::Features { missing, .. }) = check(&snapshot, &host) else { panic!() };
        assert_eq!(missing.to_string(), "ISAR0.AES 2 (host has 0)");
    }

    #[test]
    fn host_with_another_frequency_is_refused_with_both() {
        let mut snapshot = state(Baseline::Host);
        assert_eq!(check(&snapshot, &host()), Ok(()));
        snapshot.counter.frequency_hz = 62_500_000;
        let mismatch = check(&snapshot, &host()).unwrap_err();
        let expected = Mismatch::CounterFrequency { found: 62_500_000, host: 1_000_000_000 };
        assert_eq!(mismatch, expected);
        assert_eq!(
            MachineError::from(mismatch).to_string(),
            "snapshot's counter runs at 62500000 Hz, this host's at 1000000000 Hz; \
             bake the image on a host with 1000000000 Hz"
        );
    }

    #[test]
    fn snapshot_for_the_host_needs_the_same_core_and_a_named_baseline_does_not() {
        let mut snapshot = state(Baseline::Host);
        snapshot.processor.midr = V1;
        let Err(Mismatch::Vendor { found, host: own }) = check(&snapshot, &host()) else {
            panic!()
        };
        assert_eq!(found, "implementer 0x41, part 0xd40");
        assert_eq!(own, "implementer 0x41, part 0xd0c");
        // Another revision is the same core.
        snapshot.processor.midr = N1 ^ 1;
        assert_eq!(check(&snapshot, &host()), Ok(()));
    }

    #[test]
    fn captured_machine_requires_what_it_was_shown_and_keeps_its_first_core() {
        let shown = Processor {
            baseline: Baseline::Host,
            midr: V1,
            registers: vec![SystemRegister { encoding: ISAR0, value: 1 }],
        };
        let first = required(&Processor::of(Baseline::Armv8_2), Some(&shown));
        assert_eq!((first.baseline, first.midr), (Baseline::Armv8_2, V1));
        assert_eq!(first.registers, shown.registers);
        let later = Processor { midr: N1, ..shown.clone() };
        assert_eq!(required(&first, Some(&later)).midr, V1);
    }
}
