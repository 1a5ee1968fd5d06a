use std::io::Write;
use std::sync::Arc;

use super::{Console, SerialPort};
use crate::line::Line;

#[derive(Debug)]
struct NoLine;

impl Line for NoLine {
    fn raise(&self) {}
}

fn port(console: Console) -> SerialPort {
    SerialPort::from_state(&SerialPort::reset_state(), Arc::new(NoLine), console).unwrap()
}

#[test]
fn what_the_guest_writes_reaches_the_console() {
    let console = Console::default();
    let port = port(console.clone());
    for byte in b"panic" {
        port.write(0, *byte);
    }
    assert_eq!(console.tail(), b"panic");
}

#[test]
fn the_console_keeps_the_end() {
    let mut console = Console::default();
    console.write_all(&vec![b'a'; 60 << 10]).unwrap();
    console.write_all(&vec![b'b'; 10 << 10]).unwrap();
    let tail = console.tail();
    assert_eq!(tail.len(), 64 << 10);
    assert!(tail.ends_with(&vec![b'b'; 10 << 10]) && tail.starts_with(b"a"));
}

#[test]
fn state_round_trips() {
    let port = port(Console::default());
    port.write(7, 0x5a);
    port.write(3, 0x03);
    let state = port.state();
    let again = SerialPort::from_state(&state, Arc::new(NoLine), Console::default()).unwrap();
    assert_eq!(again.state(), state);
}

#[test]
fn more_input_than_fits_is_refused() {
    let mut state = SerialPort::reset_state();
    state.input = vec![0; 1 << 16];
    assert!(SerialPort::from_state(&state, Arc::new(NoLine), Console::default()).is_none());
}
