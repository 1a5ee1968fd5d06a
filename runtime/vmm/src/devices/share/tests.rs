//! Requests and answers, many at once, across resets and captures, and drivers that break the rules.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use supermachine_formats::snapshot::device::{self as formats, ShareHandle, ShareNode};

use super::fresh_share;
use crate::devices::testing::{Guest, HOSTILE_CHAINS, freeze, refusal};
use crate::devices::{FileServer, Known};

const PATIENCE: Duration = Duration::from_secs(60);
const UNANSWERED: usize = 0;
const REQUESTS: usize = 1;

/// Answers with the request's bytes in reverse, while its gate is open.
#[derive(Debug, Default)]
struct Mirror {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Mirror {
    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock().unwrap() = is_closed;
        self.opened.notify_all();
    }
}

impl FileServer for Mirror {
    fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        let mut is_closed = self.is_closed.lock().unwrap();
        while *is_closed {
            is_closed = self.opened.wait(is_closed).unwrap();
        }
        request.iter().rev().take(room).copied().collect()
    }

    fn known(&self) -> Known {
        Known {
            nodes: vec![ShareNode { id: 2, parent: 1, name: b"a".to_vec(), lookups: 1 }],
            handles: vec![ShareHandle { id: 3, node: 2, flags: 0, is_folder: false }],
        }
    }
}

fn shared() -> (Guest, Arc<Mirror>) {
    let mirror = Arc::<Mirror>::default();
    let mut guest = Guest::sharing(&fresh_share("tag", "/project"), mirror.clone());
    guest.bring_up();
    (guest, mirror)
}

/// Waits for a condition that another thread brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// Sends a request with this much room for its answer, whose address it returns.
fn send(guest: &mut Guest, request: &[u8], room: usize) -> u64 {
    let (from, to) = (guest.place(request), guest.allocate(room));
    guest.add(REQUESTS, &[(from, request.len(), false), (to, room, true)]);
    guest.notify(REQUESTS);
    to
}

fn answer(guest: &mut Guest, at: u64) -> Vec<u8> {
    let mut used = None;
    until("an answer arrives", || {
        used = guest.take_used(REQUESTS);
        used.is_some()
    });
    guest.load(at, usize::try_from(used.unwrap().1).unwrap())
}

#[test]
fn config_holds_the_tag_and_one_queue() {
    let (guest, _) = shared();
    let mut config = [0; 40];
    guest.slot.read(0x100, &mut config);
    assert_eq!(config[..4], *b"tag\0");
    assert_eq!(config[36..], [1, 0, 0, 0]);
    assert_eq!(guest.get(0x08), 26);
}

#[test]
fn request_is_answered_within_its_room() {
    let (mut guest, _) = shared();
    for room in [3, 2, 0] {
        let at = send(&mut guest, b"abc", room);
        assert_eq!(answer(&mut guest, at), b"cba"[..room]);
    }
    assert_eq!(guest.interrupts(), 3);
}

#[test]
fn request_without_an_answer_is_returned() {
    let (mut guest, _) = shared();
    let at = guest.place(b"forget");
    let head = guest.add(UNANSWERED, &[(at, 6, false)]);
    guest.notify(UNANSWERED);
    let mut used = None;
    until("it is returned", || {
        used = guest.take_used(UNANSWERED);
        used.is_some()
    });
    assert_eq!(used, Some((head.into(), 0)));
}

#[test]
fn requests_beyond_those_in_flight_wait_in_the_ring() {
    let (mut guest, mirror) = shared();
    mirror.set_closed(true);
    let sent: Vec<_> = (0..100_u8).map(|n| (n, send(&mut guest, &[n, 1], 2))).collect();
    mirror.set_closed(false);
    for _ in 0..100 {
        answer(&mut guest, 0);
    }
    for (n, at) in sent {
        assert_eq!(guest.load(at, 2), [1, n]);
    }
}

#[test]
fn capture_waits_for_requests_in_flight_and_records_what_the_guest_knows() {
    let (mut guest, mirror) = shared();
    mirror.set_closed(true);
    let at = send(&mut guest, b"abc", 3);
    assert!(freeze(&guest.events, &guest.slot).is_none());
    mirror.set_closed(false);
    answer(&mut guest, at);
    until("it is quiet", || freeze(&guest.events, &guest.slot).is_some());
    let formats::Slot::Share(_, state) = guest.slot.state() else { panic!("another device") };
    assert_eq!((&*state.target, &state.tag[..4]), ("/project", &b"tag\0"[..]));
    assert_eq!((state.nodes.len(), state.handles.len()), (1, 1));
}

#[test]
fn answer_from_before_a_reset_is_dropped() {
    let (mut guest, mirror) = shared();
    mirror.set_closed(true);
    let at = send(&mut guest, b"old", 3);
    guest.bring_up();
    mirror.set_closed(false);
    let later = send(&mut guest, b"new", 3);
    assert_eq!(answer(&mut guest, later), b"wen");
    assert_eq!(guest.load(at, 3), [0; 3]);
    assert_eq!(guest.take_used(REQUESTS), None);
}

#[test]
fn folder_that_is_not_given_is_an_error_that_names_it() {
    assert!(refusal(&fresh_share("tag", "/project"), &[]).contains("\"/project\""));
}

#[test]
fn driver_that_breaks_a_ring_stops_the_device_until_a_reset() {
    for queue in [UNANSWERED, REQUESTS] {
        for (name, build) in HOSTILE_CHAINS {
            let (mut guest, _) = shared();
            build(&mut guest, queue);
            guest.notify(queue);
            until(name, || guest.is_broken());
            guest.bring_up();
            let at = send(&mut guest, b"abc", 3);
            assert_eq!(answer(&mut guest, at), b"cba", "{name}");
        }
    }
}

#[test]
fn request_of_any_length_is_taken_up_to_the_longest() {
    let (mut guest, _) = shared();
    let longest = (1 << 20) + 4096;
    let at = guest.place(&vec![7; longest]);
    guest.add(REQUESTS, &[(at, longest, false)]);
    guest.notify(REQUESTS);
    answer(&mut guest, at);
    guest.add(REQUESTS, &[(at, longest, false), (at, 1, false)]);
    guest.notify(REQUESTS);
    assert!(guest.is_broken());
}
