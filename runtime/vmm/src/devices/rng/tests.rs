//! Random bytes, and drivers that request too many or in the wrong way.

use crate::devices::fresh_rng;
use crate::devices::testing::{Guest, assert_hostile_chains_stop};

fn ask(guest: &mut Guest, length: usize) -> Vec<u8> {
    let address = guest.allocate(length);
    let head = guest.add(0, &[(address, length, true)]);
    guest.notify(0);
    let (used, filled) = guest.take_used(0).unwrap();
    assert_eq!(used, u32::from(head));
    guest.load(address, usize::try_from(filled).unwrap())
}

#[test]
fn two_requests_return_different_bytes() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    let first = ask(&mut guest, 64);
    let second = ask(&mut guest, 64);
    assert_eq!((first.len(), second.len()), (64, 64));
    assert_ne!(first, second);
}

#[test]
fn buffer_over_the_limit_is_filled_in_part() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    assert_eq!(ask(&mut guest, 1 << 20).len(), 64 << 10);
    assert_eq!(ask(&mut guest, 5000).len(), 5000);
}

#[test]
fn buffers_of_one_notification_share_an_interrupt() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    let address = guest.allocate(64);
    for _ in 0..8 {
        guest.add(0, &[(address, 16, true), (address + 16, 16, true)]);
    }
    guest.notify(0);
    for _ in 0..8 {
        assert_eq!(guest.take_used(0).map(|(_, length)| length), Some(32));
    }
    assert_eq!(guest.interrupts(), 1);
}

#[test]
fn read_only_buffer_stays_unchanged() {
    let mut guest = Guest::running(&fresh_rng(), &[]);
    let address = guest.place(&[5; 16]);
    guest.add(0, &[(address, 16, false)]);
    guest.add(0, &[(address, 0, true)]);
    guest.notify(0);
    assert_eq!(guest.take_used(0).map(|(_, length)| length), Some(0));
    assert_eq!(guest.take_used(0).map(|(_, length)| length), Some(0));
    assert_eq!(guest.load(address, 16), [5; 16]);
}

#[test]
fn hostile_chains_stop_device_until_reset() {
    assert_hostile_chains_stop(&fresh_rng(), &[], 0, |guest| {
        assert_eq!(ask(guest, 16).len(), 16);
    });
}
