//! The serial port: the guest kernel's messages, nothing else.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use device::{Console, SerialPort};
