use alloc::vec;
use core::cell::{Cell, RefCell};

use super::*;

/// A socket with room for some bytes, and bytes to receive.
#[derive(Debug, Default)]
struct Fake {
    room: Cell<usize>,
    taken: RefCell<Vec<u8>>,
    arrived: RefCell<Vec<u8>>,
    is_reset: Cell<bool>,
    receives: Cell<u32>,
    shutdowns: Cell<u32>,
}

impl Socket for Fake {
    type Error = ();

    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, ()> {
        self.receives.set(self.receives.get() + 1);
        let mut arrived = self.arrived.borrow_mut();
        let count = buffer.len().min(arrived.len());
        buffer[..count].copy_from_slice(&arrived[..count]);
        arrived.drain(..count);
        if count == 0 && self.is_reset.get() { Err(()) } else { Ok((count > 0).then_some(count)) }
    }

    fn send(&self, bytes: &[u8]) -> Result<Option<usize>, ()> {
        if self.is_reset.get() {
            return Err(());
        }
        let count = self.room.get().min(bytes.len());
        self.room.set(self.room.get() - count);
        self.taken.borrow_mut().extend_from_slice(&bytes[..count]);
        Ok((count > 0).then_some(count))
    }

    fn shut_down_sending(&self) -> Result<(), ()> {
        self.shutdowns.set(self.shutdowns.get() + 1);
        Ok(())
    }
}

#[test]
fn bytes_without_room_are_queued_and_flushed_in_order() {
    let mut endpoint = Endpoint::new(Fake::default());
    endpoint.socket().room.set(2);
    endpoint.send(b"abcde");
    assert!(!endpoint.is_flushed() && !endpoint.flush());
    // Room alone is not enough: the event is missing.
    endpoint.socket().room.set(2);
    assert!(!endpoint.flush());
    endpoint.hear(false, true);
    assert!(!endpoint.flush());
    endpoint.socket().room.set(9);
    endpoint.hear(false, true);
    assert!(endpoint.flush() && endpoint.is_flushed());
    endpoint.send(b"fg");
    assert_eq!(*endpoint.socket().taken.borrow(), b"abcdefg");
}

#[test]
fn connecting_socket_gets_its_bytes_after_the_event() {
    let mut endpoint = Endpoint::new(Fake::default());
    endpoint.await_room();
    endpoint.socket().room.set(9);
    endpoint.queue(vec![1, 2]);
    assert!(!endpoint.is_writable() && !endpoint.flush());
    endpoint.hear(false, true);
    assert!(endpoint.is_writable() && endpoint.flush());
    assert_eq!(*endpoint.socket().taken.borrow(), [1, 2]);
}

#[test]
fn empty_socket_is_not_asked_again_before_an_event() {
    let mut endpoint = Endpoint::new(Fake::default());
    let mut buffer = [0; 4];
    assert_eq!(endpoint.receive(&mut buffer), Ok(None));
    assert_eq!(endpoint.receive(&mut buffer), Ok(None));
    assert_eq!(endpoint.socket().receives.get(), 1);
    endpoint.socket().arrived.borrow_mut().extend_from_slice(b"xy");
    endpoint.hear(true, false);
    assert_eq!((endpoint.receive(&mut buffer), &buffer[..2]), (Ok(Some(2)), &b"xy"[..]));
}

#[test]
fn broken_socket_takes_no_more_and_its_earlier_bytes_are_read() {
    let mut endpoint = Endpoint::new(Fake::default());
    let mut buffer = [0; 4];
    assert_eq!(endpoint.receive(&mut buffer), Ok(None));
    endpoint.send(b"lost");
    assert!(!endpoint.is_flushed());
    endpoint.socket().is_reset.set(true);
    endpoint.socket().arrived.borrow_mut().push(7);
    endpoint.hear(false, true);
    assert!(!endpoint.flush() && endpoint.is_broken() && endpoint.is_flushed());
    endpoint.send(b"more");
    assert!(endpoint.is_flushed() && !endpoint.flush());
    assert_eq!((endpoint.receive(&mut buffer), buffer[0]), (Ok(Some(1)), 7));
    assert_eq!(endpoint.receive(&mut buffer), Err(()));
}

#[test]
fn end_is_told_once() {
    let mut endpoint = Endpoint::new(Fake::default());
    endpoint.tell_end().unwrap();
    endpoint.tell_end().unwrap();
    assert!(endpoint.knows_end);
    assert_eq!(endpoint.socket().shutdowns.get(), 1);
}
