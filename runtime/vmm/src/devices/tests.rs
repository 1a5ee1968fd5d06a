//! The contract of slots and transport, tested with the simplest device.

use supermachine_formats::snapshot::device as formats;

use super::testing::{
    Guest, MEMORY_SIZE, NEEDS_RESET, RUNNING, Xorshift, disk, refusal, slot_of, transport_of,
};
use super::{fresh_block, fresh_pmem, fresh_rng, fresh_vsock};

fn ask(guest: &mut Guest) -> Vec<u8> {
    let address = guest.place(&[0; 32]);
    guest.add(0, &[(address, 32, true)]);
    guest.notify(0);
    assert!(guest.take_used(0).is_some());
    guest.load(address, 32)
}

/// The error after a change to a running random source's state.
fn changed(change: impl Fn(&mut formats::Virtio)) -> String {
    let guest = Guest::running(&fresh_rng(), &[]);
    let mut state = guest.slot.state();
    slot_of(&state, &[]).expect("unchanged, it is taken");
    change(transport_of(&mut state));
    refusal(&state, &[])
}

#[test]
fn empty_slot_read_shows_no_device() {
    let guest = Guest::new(&formats::Slot::Empty, &[]);
    assert_eq!(guest.get(0), 0x7472_6976);
    assert_eq!(guest.get(4), 2);
    for register in (8..0x200).step_by(4) {
        guest.set(register, 0xffff_ffff);
        assert_eq!(guest.get(register), 0);
    }
    assert_eq!(guest.slot.state(), formats::Slot::Empty);
}

#[test]
fn registers_identify_the_device() {
    let guest = Guest::new(&fresh_rng(), &[]);
    let registers: Vec<u32> = [0, 4, 8, 0x34, 0xb0, 0xfc].map(|r| guest.get(r)).into();
    assert_eq!(registers, [0x7472_6976, 2, 4, 64, u32::MAX, 0]);
    guest.set(0x14, 1);
    assert_eq!(guest.get(0x10), 1);
    guest.set(0x14, 2);
    assert_eq!(guest.get(0x10), 0);
}

#[test]
fn access_of_odd_width_or_place_is_ignored() {
    let guest = Guest::running(&fresh_rng(), &[]);
    for width in [1, 2, 3, 5, 8] {
        let mut data = vec![0xff; width];
        guest.slot.read(0x70, &mut data);
        assert_eq!(data, vec![0; width]);
        guest.slot.write(0x70, &vec![0; width]);
    }
    guest.slot.write(0x6e, &[0; 4]);
    guest.slot.write(u64::MAX, &[0; 4]);
    guest.slot.read(u64::MAX, &mut [0; 8]);
    assert_eq!(guest.get(0x70), RUNNING);
}

#[test]
fn config_read_takes_any_width_and_ends_in_zeros() {
    let guest = Guest::new(&fresh_vsock(0x0807_0605), &[]);
    let mut byte = [0xff];
    guest.slot.read(0x101, &mut byte);
    assert_eq!(byte, [6]);
    let mut bytes = [0xff; 8];
    guest.slot.read(0x102, &mut bytes);
    assert_eq!(bytes, [7, 8, 0, 0, 0, 0, 0, 0]);
    guest.slot.read(0x1fc, &mut bytes);
    assert_eq!(bytes, [0; 8]);
}

#[test]
fn feature_not_offered_is_refused() {
    let guest = Guest::new(&fresh_rng(), &[]);
    guest.set(0x70, 1);
    guest.set(0x70, 3);
    guest.set(0x24, 0);
    guest.set(0x20, 1 << 28);
    guest.set(0x24, 1);
    guest.set(0x20, 1);
    guest.set(0x70, 0xb);
    assert_eq!(guest.get(0x70), 3);
}

#[test]
fn features_without_version_1_are_refused() {
    let guest = Guest::new(&fresh_rng(), &[]);
    for status in [1, 3, 0xb, 0xf] {
        guest.set(0x70, status);
    }
    assert_eq!(guest.get(0x70), 3);
}

#[test]
fn status_steps_out_of_order_are_ignored() {
    let guest = Guest::new(&fresh_rng(), &[]);
    for status in [2, 4, 8, 0xf0, 0x10, 0xffff_fff1] {
        guest.set(0x70, status);
        assert_eq!(guest.get(0x70), 0, "{status:#x}");
    }
    guest.set(0x70, 1);
    guest.set(0x70, 3);
    guest.set(0x70, 1);
    assert_eq!(guest.get(0x70), 3, "bits are not taken away");
    guest.set(0x70, 0x83);
    assert_eq!(guest.get(0x70), 0x83);
    guest.set(0x70, 0);
    assert_eq!(guest.get(0x70), 0);
}

#[test]
fn queue_set_up_before_negotiation_is_ignored() {
    let guest = Guest::new(&fresh_rng(), &[]);
    guest.set(0x38, 16);
    guest.set(0x80, 0x1000);
    guest.set(0x44, 1);
    assert_eq!(guest.get(0x44), 0);
    assert_eq!(guest.slot.state(), fresh_rng());
}

#[test]
fn queue_outside_memory_breaks_the_device() {
    for (register, address) in [(0x80, 0), (0x90, 1), (0xa0, 2)]
        .map(|(register, _): (u64, u64)| (register, u32::try_from(MEMORY_SIZE - 16).unwrap()))
    {
        let mut guest = Guest::new(&fresh_rng(), &[]);
        guest.negotiate();
        for (other, place) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
            guest.set(other, place);
        }
        guest.set(register, address);
        guest.set(0x44, 1);
        assert_eq!(guest.get(0x44), 0);
        assert!(guest.is_broken());
    }
}

#[test]
fn ready_queue_keeps_its_registers() {
    let guest = Guest::running(&fresh_rng(), &[]);
    let before = guest.slot.state();
    guest.set(0x30, 0);
    for register in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x44] {
        guest.set(register, 16);
    }
    guest.set(0x44, 0);
    guest.set(0x30, 0);
    let after = guest.slot.state();
    let rings = |mut state| transport_of(&mut state).queues.clone();
    assert_eq!(rings(before), rings(after));
}

#[test]
fn unknown_queue_number_is_ignored() {
    let guest = Guest::running(&fresh_rng(), &[]);
    guest.set(0x30, 0xffff_ffff);
    for register in [0x38, 0x44, 0x50, 0x80] {
        guest.set(register, 0xffff_ffff);
    }
    assert_eq!(guest.get(0x34), 0);
    assert!(!guest.is_broken());
}

#[test]
fn notification_before_driver_ok_is_ignored() {
    let mut guest = Guest::new(&fresh_rng(), &[]);
    guest.negotiate();
    guest.add_queues();
    guest.add(0, &[(0x10_0000, 32, true)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0), None);
    assert_eq!(guest.interrupts(), 0);
}

#[test]
fn interrupt_status_stays_until_acknowledged() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    ask(&mut guest);
    assert_eq!((guest.interrupts(), guest.get(0x60)), (1, 1));
    guest.set(0x64, 1);
    assert_eq!(guest.get(0x60), 0);
    guest.notify(0);
    assert_eq!(guest.interrupts(), 1, "nothing used, no interrupt");
}

#[test]
fn interrupt_suppressed_by_the_driver_is_not_sent() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    guest.store(guest.queues[0].available, &1_u16.to_le_bytes());
    ask(&mut guest);
    assert_eq!((guest.interrupts(), guest.get(0x60)), (0, 0));
    guest.store(guest.queues[0].available, &0_u16.to_le_bytes());
    ask(&mut guest);
    assert_eq!(guest.interrupts(), 1);
}

#[test]
fn queue_works_after_its_indices_wrap() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    let address = guest.place(&[0; 32]);
    for _ in 0..70_000 {
        guest.add(0, &[(address, 32, true)]);
        guest.notify(0);
        assert!(guest.take_used(0).is_some());
    }
    assert!(!guest.is_broken());
}

#[test]
fn reset_restores_the_first_state() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    ask(&mut guest);
    guest.set(0x70, 0);
    assert_eq!(guest.slot.state(), fresh_rng());
    guest.bring_up();
    ask(&mut guest);
}

#[test]
fn state_of_a_running_device_restores_elsewhere() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    ask(&mut guest);
    let state = guest.slot.state();
    let mut other = Guest::over(guest.memory.clone(), &state, &[]);
    assert_eq!(other.slot.state(), state);
    other.queues = guest.queues.clone();
    assert_ne!(ask(&mut other), [0; 32]);
}

#[test]
fn fresh_state_round_trips() {
    let disks = [disk(&[0; 4096])];
    for state in [
        fresh_vsock(3),
        fresh_rng(),
        fresh_pmem(0, 0x1_0000_0000, 0x20_0000),
        fresh_block(0),
        formats::Slot::Empty,
    ] {
        assert_eq!(slot_of(&state, &disks).unwrap().state(), state);
    }
}

#[test]
fn state_with_an_illegal_transport_field_is_refused() {
    for (expected, refused) in [
        ("driver features is", changed(|state| state.driver_features |= 1 << 29)),
        ("status is 0xf", changed(|state| state.driver_features = 0)),
        ("status is 0x5", changed(|state| state.status = 5)),
        ("status is 0x10f", changed(|state| state.status |= 0x100)),
        ("status is 0x3", changed(|state| state.status = 3)),
        ("interrupt status is 0x4", changed(|state| state.interrupt_status = 4)),
        ("count of queues is 0x0", changed(|state| state.queues.clear())),
    ] {
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn state_with_an_illegal_queue_field_is_refused() {
    let queue =
        |change: fn(&mut formats::Queue)| changed(|state| state.queues.iter_mut().for_each(change));
    for (expected, refused) in [
        ("largest size of queue 0 is 0x20", queue(|queue| queue.max_size = 32)),
        ("size of queue 0 is 0x30", queue(|queue| queue.size = 48)),
        ("size of queue 0 is 0x80", queue(|queue| queue.size = 128)),
        ("size of queue 0 is 0x0", queue(|queue| queue.size = 0)),
        ("event index of queue 0 is 0x1", queue(|queue| queue.event_index = true)),
    ] {
        assert!(refused.contains(expected), "{refused}");
    }
    for refused in [
        queue(|queue| queue.descriptors = MEMORY_SIZE - 16),
        queue(|queue| queue.descriptors |= 8),
        queue(|queue| queue.available = MEMORY_SIZE - 16),
        queue(|queue| queue.available |= 1),
        queue(|queue| queue.available = 0),
        queue(|queue| queue.used = !3),
        queue(|queue| queue.used |= 2),
    ] {
        assert!(refused.contains("of queue 0 is"), "{refused}");
    }
}

#[test]
fn random_register_accesses_leave_a_device_that_resets() {
    let disks = [disk(&[7; 8192])];
    for (seed, state) in
        [fresh_vsock(3), fresh_rng(), fresh_pmem(0, 0x1_0000_0000, 0x20_0000), fresh_block(0)]
            .iter()
            .enumerate()
    {
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15 + seed as u64);
        let mut guest = Guest::running(state, &disks);
        for _ in 0..20_000 {
            let offset =
                if random.below(2) == 0 { random.below(0x140) } else { random.below(80) * 4 };
            let width = if random.below(4) == 0 { random.below(9) } else { 4 };
            let mut data = random.next().to_le_bytes();
            let data = &mut data[..usize::try_from(width).unwrap()];
            if random.below(3) == 0 {
                guest.slot.read(offset, data);
            } else if offset != 0x70 || random.below(8) == 0 {
                guest.slot.write(offset, data);
            }
        }
        guest.bring_up();
        assert_eq!(guest.get(0x70) & NEEDS_RESET, 0);
    }
}
