//! The port, and the console that keeps the last of what was written to it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::line::Line;

/// Bytes of console output that are kept.
const CONSOLE_SIZE: usize = 64 << 10;

/// The end of what the guest's kernel wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// The bytes that are kept, oldest first.
    pub(crate) fn tail(&self) -> Vec<u8> {
        self.lock().iter().copied().collect()
    }

    /// Forgets what was written.
    pub(crate) fn clear(&self) {
        // The memory goes too: the next text is another's.
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
pub(super) struct SerialLine(pub(super) Arc<dyn Line>);

impl Trigger for SerialLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

pub(super) type Port = Serial<SerialLine, NoEvents, Console>;

/// A 16550A port.
pub(crate) struct SerialPort {
    /// Guards the port's registers.
    pub(super) port: Mutex<Port>,
}

impl std::fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialPort").finish_non_exhaustive()
    }
}

impl SerialPort {
    /// The guest reads a register.
    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// The guest writes a register.
    pub(crate) fn write(&self, offset: u8, value: u8) {
        // Neither the console nor the line can fail, and nothing loops bytes back here.
        let _ = self.lock().write(offset, value);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
