//! The port's state in a snapshot.

use std::sync::{Arc, Mutex};

use supermachine_formats::snapshot::device as formats;
use vm_superio::Serial;
use vm_superio::serial::{NoEvents, SerialState};

use super::device::{Console, Port, SerialLine, SerialPort};
use crate::line::Line;

impl SerialPort {
    /// A port with saved registers. None when more input waits than the port can hold.
    pub(crate) fn from_state(
        state: &formats::Serial,
        line: Arc<dyn Line>,
        console: Console,
    ) -> Option<Self> {
        Some(Self { port: Mutex::new(port(state, line, console)?) })
    }

    /// Takes on saved registers in place. None when more input waits than the port can hold.
    pub(crate) fn reset(
        &self,
        state: &formats::Serial,
        line: Arc<dyn Line>,
        console: Console,
    ) -> Option<()> {
        *self.lock() = port(state, line, console)?;
        Some(())
    }

    /// The registers.
    pub(crate) fn state(&self) -> formats::Serial {
        saved(self.lock().state())
    }

    /// The registers after reset.
    pub(crate) fn reset_state() -> formats::Serial {
        saved(SerialState::default())
    }
}

fn port(state: &formats::Serial, line: Arc<dyn Line>, console: Console) -> Option<Port> {
    let [baud_divisor_low, baud_divisor_high] = state.divisor;
    let registers = SerialState {
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable: state.interrupt_enable,
        interrupt_identification: state.interrupt_identification,
        line_control: state.line_control,
        line_status: state.line_status,
        modem_control: state.modem_control,
        modem_status: state.modem_status,
        scratch: state.scratch,
        in_buffer: state.input.clone(),
    };
    Serial::from_state(&registers, SerialLine(line), NoEvents, console).ok()
}

fn saved(state: SerialState) -> formats::Serial {
    formats::Serial {
        divisor: [state.baud_divisor_low, state.baud_divisor_high],
        interrupt_enable: state.interrupt_enable,
        interrupt_identification: state.interrupt_identification,
        line_control: state.line_control,
        line_status: state.line_status,
        modem_control: state.modem_control,
        modem_status: state.modem_status,
        scratch: state.scratch,
        input: state.in_buffer,
    }
}
