//! The controller's state in a snapshot.

use std::sync::Arc;

use supermachine_formats::snapshot::arch::x86_64 as formats;

use super::device::{Ioapic, Registers};
use crate::hypervisor::Vm;

impl Ioapic {
    /// A controller with saved registers. Every value is legal: a guest can write them all.
    pub(crate) fn from_state(vm: Arc<dyn Vm>, state: &formats::Ioapic) -> Arc<Self> {
        Self::with_registers(vm, registers(state))
    }

    /// Takes on saved registers in place.
    pub(crate) fn reset(&self, state: &formats::Ioapic) {
        *self.lock() = registers(state);
    }

    /// The registers.
    pub(crate) fn state(&self) -> formats::Ioapic {
        let Registers { id, selected, pins } = self.lock().clone();
        formats::Ioapic { id, selected, pins }
    }
}

fn registers(state: &formats::Ioapic) -> Registers {
    Registers { id: state.id & 0x0f00_0000, selected: state.selected, pins: state.pins }
}
