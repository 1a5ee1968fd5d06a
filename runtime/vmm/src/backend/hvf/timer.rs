//! The arithmetic of counters and timers, and the offset that all vCPUs of a machine share.
//!
//! The guest's virtual counter is the host's (`mach_absolute_time`) less an offset. A machine's
//! timers count in its state by the virtual counter, so that they fire after the same time wherever
//! it continues. The guest's physical counter is taken to be the host's without an offset.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use supermachine_formats::snapshot::arch::aarch64::{Timer, Timers};

/// The bits of a timer's control register: it is on, its interrupt is masked, it has fired.
const ENABLE: u64 = 1;
const MASKED: u64 = 2;
const FIRED: u64 = 4;
/// The bits that software writes.
pub(super) const CONTROL: u64 = ENABLE | MASKED;

/// The offset of a VM's counters.
#[derive(Debug, Default)]
pub(super) struct SharedOffset(Mutex<Option<u64>>);

impl SharedOffset {
    /// The offset for a guest whose counter is to have this value while the host's has `now`. The
    /// vCPU that asks first decides for all.
    pub(super) fn join(&self, now: u64, value: u64) -> u64 {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shared.get_or_insert_with(|| now.wrapping_sub(value))
    }

    /// The same, but this vCPU decides anew.
    pub(super) fn lead(&self, now: u64, value: u64) -> u64 {
        let offset = now.wrapping_sub(value);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
        offset
    }
}

/// A timer's control and compare values, as the processor has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) control: u64,
    pub(super) compare: u64,
}

impl Registers {
    /// Whether the timer demands an interrupt.
    pub(super) fn is_asserted(self) -> bool {
        self.control & (ENABLE | MASKED | FIRED) == ENABLE | FIRED
    }

    /// How long until the timer demands an interrupt; `None` if it never does.
    fn remaining(self, counter: u64, frequency_hz: u32) -> Option<Duration> {
        if self.control & (ENABLE | MASKED) != ENABLE {
            return None;
        }
        // The architecture compares by the sign of the difference.
        let ticks = self.compare.wrapping_sub(counter).cast_signed().max(0).cast_unsigned();
        let hz = u64::from(frequency_hz.max(1));
        let nanoseconds = ticks % hz * 1_000_000_000 / hz;
        Some(Duration::from_secs(ticks / hz) + Duration::from_nanos(nanoseconds))
    }
}

/// How long a guest without other interrupts waits: until the first of its timers fires. `None` if
/// none will.
pub(super) fn until_first(
    virtual_timer: Registers,
    physical_timer: Registers,
    (now, offset): (u64, u64),
    frequency_hz: u32,
) -> Option<Duration> {
    let virtual_wait = virtual_timer.remaining(now.wrapping_sub(offset), frequency_hz);
    let physical_wait = physical_timer.remaining(now, frequency_hz);
    [virtual_wait, physical_wait].into_iter().flatten().min()
}

/// The timers as a state has them.
pub(super) fn to_state(virtual_timer: Registers, physical_timer: Registers, offset: u64) -> Timers {
    let timer = |registers: Registers, offset: u64| Timer {
        control: (registers.control & CONTROL) as u32,
        compare: registers.compare.wrapping_sub(offset),
    };
    Timers { virtual_timer: timer(virtual_timer, 0), physical_timer: timer(physical_timer, offset) }
}

/// The virtual and the physical timer of a state, as the processor has them.
pub(super) fn from_state(timers: &Timers, offset: u64) -> (Registers, Registers) {
    let registers = |timer: &Timer, offset: u64| Registers {
        control: u64::from(timer.control) & CONTROL,
        compare: timer.compare.wrapping_add(offset),
    };
    (registers(&timers.virtual_timer, 0), registers(&timers.physical_timer, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 24_000_000;

    fn on(compare: u64) -> Registers {
        Registers { control: ENABLE, compare }
    }

    const OFF: Registers = Registers { control: 0, compare: 0 };

    #[test]
    fn vcpus_join_the_offset_of_the_first_until_one_leads() {
        let shared = SharedOffset::default();
        assert_eq!(shared.join(1000, 400), 600);
        assert_eq!(shared.join(1010, 400), 600);
        assert_eq!(shared.lead(2000, 400), 1600);
        assert_eq!(shared.join(2010, 400), 1600);
        // A host that was started after the guest.
        assert_eq!(10_u64.wrapping_sub(shared.lead(10, 5000)), 5000);
    }

    #[test]
    fn guest_waits_for_the_first_timer_that_is_on_and_unmasked() {
        let wait = |one, two| until_first(one, two, (1000, 400), HZ);
        assert_eq!(wait(OFF, OFF), None);
        assert_eq!(wait(on(600 + u64::from(HZ)), OFF), Some(Duration::from_secs(1)));
        assert_eq!(wait(OFF, on(1000 + 24)), Some(Duration::from_micros(1)));
        assert_eq!(wait(on(600 + 48), on(1000 + 24)), Some(Duration::from_micros(1)));
        assert_eq!(wait(on(600), OFF), Some(Duration::ZERO));
        assert_eq!(wait(on(0), OFF), Some(Duration::ZERO));
        let masked = Registers { control: ENABLE | MASKED, compare: 0 };
        assert_eq!(wait(masked, OFF), None);
    }

    #[test]
    fn wait_that_fills_the_counter_does_not_overflow() {
        let far = on(600 + (u64::MAX >> 1));
        assert_eq!(until_first(far, OFF, (1000, 400), HZ).unwrap().as_secs(), 384_307_168_202);
        assert_eq!(until_first(far, OFF, (1000, 400), 0).unwrap().as_secs(), u64::MAX >> 1);
    }

    #[test]
    fn timer_demands_an_interrupt_only_if_on_fired_and_unmasked() {
        let asserted = |control| Registers { control, compare: 0 }.is_asserted();
        assert_eq!((0..8).filter(|control| asserted(*control)).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn timers_keep_their_distance_from_the_counter_on_another_host() {
        let (virtual_timer, physical_timer) = (on(700), on(1100));
        let state = to_state(virtual_timer, physical_timer, 400);
        assert_eq!((state.virtual_timer.compare, state.physical_timer.compare), (700, 700));
        assert_eq!(from_state(&state, 400), (virtual_timer, physical_timer));
        assert_eq!(from_state(&state, u64::MAX - 99), (on(700), on(600)));
        // Whether it has fired follows from the counter.
        let fired = Registers { control: 7, compare: 0 };
        assert_eq!(to_state(fired, OFF, 0).virtual_timer.control, 3);
    }
}
