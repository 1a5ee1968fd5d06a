//! Frames both ways, links and drivers that do not keep up, and drivers that break the rules.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::snapshot::device as formats;

use super::{FRAME_HEADER, FrameLink, MAX_FRAME, RECEIVE, TRANSMIT};
use crate::devices::fresh_net;
use crate::devices::testing::{
    Guest, HOSTILE_CHAINS, INDIRECT, NEEDS_RESET, Xorshift, freeze, memory, refusal, transport_of,
};

const HEADER: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest with a running driver, and the other end of its link.
fn linked() -> (Guest, UnixDatagram) {
    let (mut guest, end) = plugged();
    guest.bring_up();
    (guest, end)
}

fn plugged() -> (Guest, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let link = FrameLink::new(ours).unwrap();
    (Guest::with(memory(), &fresh_net(), &[], Some(link)), theirs)
}

fn frame(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at + seed) % 251).unwrap()).collect()
}

/// Offers buffers of these sizes for frames to the guest.
fn offer(guest: &mut Guest, sizes: &[usize]) -> Vec<(u16, u64)> {
    let buffers = sizes.iter().map(|&size| {
        let address = guest.allocate(size);
        (guest.add(RECEIVE, &[(address, size, true)]), address)
    });
    buffers.collect()
}

/// Waits for a condition that another thread brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// The next frame that the guest receives, put together from its buffers.
fn received(guest: &mut Guest, buffers: &mut Vec<(u16, u64)>) -> Vec<u8> {
    let (mut bytes, mut left) = (Vec::new(), 1);
    while left > 0 {
        let mut used = None;
        until("a frame arrives", || {
            used = guest.take_used(RECEIVE);
            used.is_some()
        });
        let (head, length) = used.unwrap();
        let (expected, address) = buffers.remove(0);
        assert_eq!(head, u32::from(expected));
        let content = guest.load(address, usize::try_from(length).unwrap());
        if bytes.is_empty() {
            assert_eq!(content[..10], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            left = u16::from_le_bytes([content[10], content[11]]);
        }
        bytes.extend(content);
        left -= 1;
    }
    bytes.split_off(HEADER)
}

/// Sends a frame from the guest, behind a header.
fn send(guest: &mut Guest, frame: &[u8]) {
    let bytes = guest.place(&[&[0; HEADER][..], frame].concat());
    guest.add(TRANSMIT, &[(bytes, HEADER, false), (bytes + 12, frame.len(), false)]);
    guest.notify(TRANSMIT);
}

fn read(end: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; MAX_FRAME + 1];
    let length = end.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn config_holds_address_and_mtu() {
    let (guest, _end) = plugged();
    let mut config = [0; 12];
    guest.slot.read(0x100, &mut config);
    assert_eq!(config[..6], [2, 0x73, 0x6d, 0, 0, 2]);
    assert_eq!(u16::from_le_bytes([config[10], config[11]]), 65_520);
    assert_eq!(guest.get(0x08), 1);
}

#[test]
fn frame_of_the_guest_reaches_the_link() {
    let (mut guest, end) = linked();
    for length in [FRAME_HEADER, 60, 1514, MAX_FRAME] {
        let sent = frame(length, length);
        send(&mut guest, &sent);
        assert!(read(&end) == sent, "{length}");
        assert_eq!(guest.take_used(TRANSMIT).map(|(_, written)| written), Some(0));
    }
    assert!(!guest.is_broken());
}

#[test]
fn each_sent_frame_is_announced() {
    let (mut guest, _end) = linked();
    for count in 1..4 {
        send(&mut guest, &frame(60, 0));
        assert_eq!(guest.interrupts(), count);
    }
}

#[test]
fn what_is_no_frame_is_dropped() {
    let (mut guest, end) = linked();
    for length in [0, 1, FRAME_HEADER - 1, MAX_FRAME + 1] {
        send(&mut guest, &frame(length, 0));
        assert!(guest.take_used(TRANSMIT).is_some(), "{length}");
    }
    let short = guest.place(&[0; 4]);
    guest.add(TRANSMIT, &[(short, 4, false)]);
    guest.notify(TRANSMIT);
    send(&mut guest, &frame(60, 1));
    assert_eq!(read(&end), frame(60, 1));
    assert!(!guest.is_broken());
}

#[test]
fn frame_of_the_link_fills_as_many_buffers_as_it_needs() {
    let (mut guest, end) = linked();
    let mut buffers = offer(&mut guest, &[1536; 60]);
    guest.notify(RECEIVE);
    for length in [60, 1514, 9000, MAX_FRAME] {
        end.send(&frame(length, length)).unwrap();
        assert!(received(&mut guest, &mut buffers) == frame(length, length), "{length}");
    }
    assert!(guest.interrupts() > 0);
}

#[test]
fn frames_wait_for_buffers_in_order() {
    let (mut guest, end) = linked();
    for seed in 0..5 {
        end.send(&frame(3000, seed)).unwrap();
    }
    // One buffer is too few for the first frame.
    let mut buffers = offer(&mut guest, &[1536]);
    guest.notify(RECEIVE);
    assert_eq!(guest.take_used(RECEIVE), None);
    buffers.extend(offer(&mut guest, &[1536; 9]));
    guest.notify(RECEIVE);
    for seed in 0..5 {
        assert!(received(&mut guest, &mut buffers) == frame(3000, seed), "{seed}");
    }
    assert!(buffers.is_empty() && !guest.is_broken());
}

#[test]
fn more_frames_than_a_turn_moves_all_arrive() {
    let (mut guest, end) = linked();
    let mut buffers = offer(&mut guest, &[64; 256]);
    guest.notify(RECEIVE);
    let sender = thread::spawn(move || {
        for seed in 0..2000 {
            end.send(&frame(40, seed)).unwrap();
        }
        end
    });
    for seed in 0..2000 {
        let address = buffers[0].1;
        assert!(received(&mut guest, &mut buffers) == frame(40, seed), "{seed}");
        buffers.push((guest.add(RECEIVE, &[(address, 64, true)]), address));
        guest.notify(RECEIVE);
    }
    drop(sender.join().unwrap());
}

#[test]
fn full_link_holds_the_guest_back_and_loses_nothing() {
    let (mut guest, end) = linked();
    let sent = guest.place(&[&[0; HEADER][..], &frame(60_000, 1)].concat());
    let mut count = 0;
    loop {
        guest.add(TRANSMIT, &[(sent, HEADER + 60_000, false)]);
        guest.notify(TRANSMIT);
        count += 1;
        if guest.take_used(TRANSMIT).is_none() {
            break;
        }
        assert!(count < 200, "a link has no end");
    }
    guest.add(TRANSMIT, &[(sent, HEADER + 60_000, false)]);
    guest.notify(TRANSMIT);
    assert_eq!(guest.take_used(TRANSMIT), None);
    for _ in 0..=count {
        assert!(read(&end) == frame(60_000, 1));
    }
    until("the held frames are freed", || guest.take_used(TRANSMIT).is_some());
    assert!(!guest.is_broken());
}

#[test]
fn frames_that_came_before_the_driver_arrive_once_it_runs() {
    let (mut guest, end) = plugged();
    end.send(&frame(100, 3)).unwrap();
    thread::yield_now();
    guest.bring_up();
    let mut buffers = offer(&mut guest, &[2048]);
    guest.notify(RECEIVE);
    assert_eq!(received(&mut guest, &mut buffers), frame(100, 3));
}

#[test]
fn restored_driver_receives_without_a_notification() {
    let (mut guest, _end) = linked();
    let mut buffers = offer(&mut guest, &[2048; 2]);
    guest.notify(RECEIVE);
    let held = freeze(&guest.events, &guest.slot).expect("it is quiet");
    let state = guest.slot.state();
    drop(held);
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.send(&frame(80, 9)).unwrap();
    let queues = guest.queues.clone();
    let link = Some(FrameLink::new(ours).unwrap());
    let mut copy = Guest::with(guest.memory.clone(), &state, &[], link);
    copy.queues = queues;
    assert_eq!(received(&mut copy, &mut buffers), frame(80, 9));
}

#[test]
fn interface_without_a_link_frees_what_it_gets() {
    let mut guest = Guest::running(&fresh_net(), &[]);
    offer(&mut guest, &[2048]);
    guest.notify(RECEIVE);
    send(&mut guest, &frame(60, 0));
    assert!(guest.take_used(TRANSMIT).is_some());
    assert_eq!(guest.take_used(RECEIVE), None);
    assert!(!guest.is_broken());
}

#[test]
fn link_without_another_end_frees_what_it_gets() {
    let (mut guest, end) = linked();
    drop(end);
    for _ in 0..300 {
        let bytes = guest.place(&[0; 60]);
        guest.add(TRANSMIT, &[(bytes, 60, false)]);
        guest.notify(TRANSMIT);
        assert!(guest.take_used(TRANSMIT).is_some());
    }
    assert!(!guest.is_broken());
}

#[test]
fn driver_without_merged_buffers_is_refused() {
    let (guest, _end) = plugged();
    for missing in [15, 1] {
        guest.set(0x70, 0);
        guest.set(0x70, 1);
        guest.set(0x70, 3);
        guest.set(0x24, 0);
        guest.set(0x20, guest.get(0x10) & !(1 << missing));
        guest.set(0x24, 1);
        guest.set(0x20, 1);
        guest.set(0x70, 0xb);
        assert_eq!(guest.get(0x70), 3, "feature {missing}");
    }
}

#[test]
fn illegal_states_are_refused() {
    let with = |change: fn(&mut formats::Net)| {
        let formats::Slot::Net(transport, mut net) = fresh_net() else { panic!() };
        change(&mut net);
        refusal(&formats::Slot::Net(transport, net), &[])
    };
    assert_eq!(with(|net| net.mac[0] = 3), "virtio net state: address is 0x3");
    assert_eq!(with(|net| net.mtu = 1279), "virtio net state: mtu is 0x4ff");
    assert_eq!(with(|net| net.mtu = 65_521), "virtio net state: mtu is 0xfff1");
    let mut state = fresh_net();
    let transport = transport_of(&mut state);
    (transport.driver_features, transport.status) = (1 << 32, 0xb);
    assert_eq!(refusal(&state, &[]), "virtio net state: status is 0xb");
}

#[test]
fn hostile_chains_stop_device_until_reset() {
    for queue in [RECEIVE, TRANSMIT] {
        for (name, build) in HOSTILE_CHAINS {
            let (mut guest, end) = linked();
            // A frame that wants the buffers.
            end.send(&frame(60, 0)).unwrap();
            build(&mut guest, queue);
            guest.notify(queue);
            until(name, || guest.is_broken());
            guest.notify(queue);
            guest.bring_up();
            send(&mut guest, &frame(60, 5));
            assert_eq!(read(&end), frame(60, 5), "{name}");
            assert_eq!(guest.get(0x70) & NEEDS_RESET, 0, "{name}");
        }
    }
}

#[test]
fn buffers_without_room_stop_the_device() {
    let (mut guest, end) = linked();
    end.send(&frame(60, 0)).unwrap();
    let readable = guest.place(&[0; 64]);
    guest.add(RECEIVE, &[(readable, 64, false)]);
    guest.notify(RECEIVE);
    until("it stops", || guest.is_broken());
}

#[test]
fn random_rings_never_leave_memory_or_panic() {
    let mut chance = Xorshift(0x5EED_4E77);
    for _ in 0..200 {
        let (mut guest, end) = linked();
        end.set_nonblocking(true).unwrap();
        for _ in 0..40 {
            let queue = usize::try_from(chance.below(2)).unwrap();
            let index = u16::try_from(chance.below(256)).unwrap();
            let address = [chance.below(8 << 20), chance.next(), 0]
                [usize::try_from(chance.below(3)).unwrap()];
            let length = u32::try_from(chance.below(3000)).unwrap();
            let flags = u16::try_from(chance.below(8)).unwrap() & !INDIRECT;
            let next = u16::try_from(chance.below(300)).unwrap();
            guest.describe(queue, index, (address, length), flags, next);
            guest.offer(queue, u16::try_from(chance.below(260)).unwrap());
            guest.notify(queue);
            // Nobody may read or take it.
            let _ = end.send(&frame(usize::try_from(chance.below(9000)).unwrap(), 0));
            if guest.is_broken() {
                guest.bring_up();
            }
        }
    }
}
