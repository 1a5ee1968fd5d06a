use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::*;

/// Longer than any step takes: only a lost event reaches it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reports the token of each event.
#[derive(Debug)]
struct Reporter(Mutex<Sender<u64>>);

impl EventHandler for Reporter {
    fn ready(&self, token: u64, _: Readiness) {
        let _ = lock(&self.0).send(token);
    }
}

/// A started loop with a device that reports its events.
fn started() -> (EventLoop, DeviceEvents, Arc<dyn EventHandler>, Receiver<u64>) {
    let (sender, receiver) = mpsc::channel();
    let handler: Arc<dyn EventHandler> = Arc::new(Reporter(Mutex::new(sender)));
    let event_loop = EventLoop::new().unwrap();
    let events = event_loop.device();
    events.set_handler(Arc::downgrade(&handler));
    event_loop.start().unwrap();
    (event_loop, events, handler, receiver)
}

#[test]
fn input_reaches_the_device_with_its_token() {
    let (_loop, events, _handler, receiver) = started();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let _source = events.register(&ours, 7, Interest::Input).unwrap();
    theirs.write_all(b"x").unwrap();
    assert_eq!(receiver.recv_timeout(TIMEOUT), Ok(7));
}

/// Regression test: an event of a stream from before a reset reached the stream that took its place.
#[test]
fn event_of_a_dropped_source_is_ignored() {
    let (event_loop, events, _handler, receiver) = started();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let former = events.register(&ours, 1, Interest::Input).unwrap();
    let held = event_loop.hold();
    theirs.write_all(b"x").unwrap();
    drop(former);
    let (other, mut far) = UnixStream::pair().unwrap();
    let _source = events.register(&other, 2, Interest::Input).unwrap();
    far.write_all(b"x").unwrap();
    drop(held);
    assert_eq!(receiver.recv_timeout(TIMEOUT), Ok(2));
    assert!(receiver.try_recv().is_err());
}

#[test]
fn dropped_loop_serves_no_more_events() {
    let (event_loop, events, _handler, receiver) = started();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let _source = events.register(&ours, 1, Interest::Input).unwrap();
    drop(event_loop);
    theirs.write_all(b"x").unwrap();
    assert!(receiver.try_recv().is_err());
}
