use std::io::Write;
use std::sync::Arc;

use super::{Console, SerialPort};
use crate::devices::{BusDevice, Line};

#[derive(Debug)]
struct NoLine;

impl Line for NoLine {
    fn raise(&self) {}
}

fn port(console: Console) -> SerialPort {
    SerialPort::from_state(&SerialPort::reset_state(), Arc::new(NoLine), console).unwrap()
}

#[test]
fn byte_written_by_guest_reaches_console() {
    let console = Console::default();
    let port = port(console.clone());
    for byte in b"panic" {
        port.write(0, &[*byte]);
    }
    assert_eq!(console.tail(), b"panic");
}

#[test]
fn console_over_its_size_keeps_the_tail() {
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
    port.write(7, &[0x5a]);
    port.write(3, &[0x03]);
    let state = port.state();
    let again = SerialPort::from_state(&state, Arc::new(NoLine), Console::default()).unwrap();
    assert_eq!(again.state(), state);
}

#[test]
fn state_with_too_much_input_is_refused() {
    let mut state = SerialPort::reset_state();
    state.input = vec![0; 1 << 16];
    assert!(SerialPort::from_state(&state, Arc::new(NoLine), Console::default()).is_none());
}
