//! The I/O interrupt controller: turns lines into interrupt messages.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use device::Ioapic;
