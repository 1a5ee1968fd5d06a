use std::sync::Arc;

use supermachine_formats::snapshot::arch::x86_64 as formats;

use super::Ioapic;
use crate::hypervisor::fake::FakeVm;
use crate::line::Line;

fn ioapic() -> (Arc<FakeVm>, Arc<Ioapic>) {
    let vm = Arc::new(FakeVm::default());
    let state = formats::Ioapic { id: 0, selected: 0, pins: [1 << 16; 24] };
    let ioapic = Ioapic::from_state(vm.clone(), &state);
    (vm, ioapic)
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
fn version_tells_twenty_four_pins() {
    assert_eq!(read(&ioapic().1, 1), 0x0017_0011);
}

#[test]
fn an_edge_on_an_open_pin_sends_its_vector() {
    let (vm, ioapic) = ioapic();
    write(&ioapic, 0x10 + 2 * 5 + 1, 3 << 24);
    write(&ioapic, 0x10 + 2 * 5, 0x31);
    ioapic.pin(5).raise();
    assert_eq!(vm.messages(), [(0xfee0_3000, 0x31)]);
}

#[test]
fn an_edge_on_a_masked_pin_is_dropped() {
    let (vm, ioapic) = ioapic();
    write(&ioapic, 0x10 + 2 * 5, 0x1_0031);
    ioapic.pin(5).raise();
    assert!(vm.messages().is_empty());
}

#[test]
fn registers_past_the_last_pin_read_zero_and_ignore_writes() {
    let (_, ioapic) = ioapic();
    let before = ioapic.state().pins;
    for register in [3, 0x0f, 0x40, 0xff] {
        write(&ioapic, register, u32::MAX);
        assert_eq!(read(&ioapic, register), 0, "register {register:#x}");
    }
    assert_eq!(ioapic.state().pins, before);
}

#[test]
fn accesses_of_any_width_and_offset_are_harmless() {
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
    let (vm, ioapic) = ioapic();
    write(&ioapic, 0, 0x0500_0000);
    write(&ioapic, 0x10 + 2 * 7, 0x42);
    let state = ioapic.state();
    assert_eq!(Ioapic::from_state(vm, &state).state(), state);
}
