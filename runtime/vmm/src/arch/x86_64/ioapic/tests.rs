use std::sync::{Arc, Mutex};

use supermachine_formats::snapshot::arch::x86_64 as formats;

use super::{InterruptSink, Ioapic};
use crate::devices::BusDevice;

/// Records the messages that it is to deliver.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(u64, u32)>>);

impl Recorder {
    fn messages(&self) -> Vec<(u64, u32)> {
        self.0.lock().unwrap().clone()
    }
}

impl InterruptSink for Recorder {
    fn deliver(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

fn ioapic() -> (Arc<Recorder>, Arc<Ioapic>) {
    let sink = Arc::new(Recorder::default());
    let state = formats::Ioapic { id: 0, selected: 0, pins: [1 << 16; 24] };
    let ioapic = Ioapic::from_state(sink.clone(), &state);
    (sink, ioapic)
}

fn write(ioapic: &Ioapic, register: u8, value: u32) {
    ioapic.write(0x00, &u32::from(register).to_le_bytes());
    ioapic.write(0x10, &value.to_le_bytes());
}

fn read(ioapic: &Ioapic, register: u8) -> u32 {
    ioapic.write(0x00, &u32::from(register).to_le_bytes());
    let mut data = [0; 4];
    ioapic.read(0x10, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn version_read_reports_twenty_four_pins() {
    assert_eq!(read(&ioapic().1, 1), 0x0017_0011);
}

#[test]
fn edge_on_unmasked_pin_delivers_its_vector() {
    let (sink, ioapic) = ioapic();
    write(&ioapic, 0x10 + 2 * 5 + 1, 3 << 24);
    write(&ioapic, 0x10 + 2 * 5, 0x31);
    ioapic.line(5).raise();
    assert_eq!(sink.messages(), [(0xfee0_3000, 0x31)]);
}

#[test]
fn edge_on_masked_pin_is_dropped() {
    let (sink, ioapic) = ioapic();
    write(&ioapic, 0x10 + 2 * 5, 0x1_0031);
    ioapic.line(5).raise();
    assert!(sink.messages().is_empty());
}

#[test]
fn register_past_last_pin_reads_zero_and_ignores_writes() {
    let (_, ioapic) = ioapic();
    let before = ioapic.state().pins;
    for register in [3, 0x0f, 0x40, 0xff] {
        write(&ioapic, register, u32::MAX);
        assert_eq!(read(&ioapic, register), 0, "register {register:#x}");
    }
    assert_eq!(ioapic.state().pins, before);
}

#[test]
fn access_of_any_width_and_offset_is_harmless() {
    let (_, ioapic) = ioapic();
    for offset in [0, 1, 4, 0x10, 0x13, 0xfff] {
        for width in 0..=8 {
            ioapic.write(offset, &vec![0xff; width]);
            ioapic.read(offset, &mut vec![0; width]);
        }
    }
}

#[test]
fn state_round_trips() {
    let (sink, ioapic) = ioapic();
    write(&ioapic, 0, 0x0500_0000);
    write(&ioapic, 0x10 + 2 * 7, 0x42);
    let state = ioapic.state();
    assert_eq!(Ioapic::from_state(sink, &state).state(), state);
}
