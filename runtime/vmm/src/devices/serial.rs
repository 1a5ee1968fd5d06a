//! The serial port, and the console that keeps the tail of the guest kernel's messages.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use supermachine_formats::snapshot::device as formats;
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

use super::bus::BusDevice;
use super::line::Line;

/// Bytes of console output that are kept.
const CONSOLE_SIZE: usize = 64 << 10;

/// The tail of the guest kernel's messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// The bytes that are kept, oldest first.
    pub(crate) fn tail(&self) -> Vec<u8> {
        self.lock().iter().copied().collect()
    }

    /// Drops all bytes.
    pub(crate) fn clear(&self) {
        // The buffer goes too: the next text is another user's.
        *self.lock() = VecDeque::new();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.lock();
        let excess = (kept.len() + bytes.len()).saturating_sub(CONSOLE_SIZE).min(kept.len());
        kept.drain(..excess);
        kept.extend(bytes.iter().rev().take(CONSOLE_SIZE).rev());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port's interrupt line.
#[derive(Debug)]
struct SerialLine(Arc<dyn Line>);

impl Trigger for SerialLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

type Port = Serial<SerialLine, NoEvents, Console>;

/// A 16550A port.
pub(crate) struct SerialPort {
    /// Guards the port's registers.
    port: Mutex<Port>,
}

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// A port with saved registers. `None` if the state holds more input than the port can.
    pub(crate) fn from_state(
        state: &formats::Serial,
        line: Arc<dyn Line>,
        console: Console,
    ) -> Option<Self> {
        Some(Self { port: Mutex::new(port(state, line, console)?) })
    }

    /// Puts saved registers in place. `None` if the state holds more input than the port can.
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

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (u8::try_from(offset), data) {
            (Ok(register), [byte]) => *byte = self.lock().read(register),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(register) = u8::try_from(offset) else { return };
        // A string output instruction writes several bytes to one register.
        for byte in data {
            // Neither the console nor the line can fail, and nothing loops bytes back here.
            let _ = self.lock().write(register, *byte);
        }
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
