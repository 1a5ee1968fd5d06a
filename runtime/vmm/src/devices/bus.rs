//! Which device answers at which address.
//!
//! Reads from an address without a device return all ones, and writes are dropped, as on real
//! hardware.

use std::fmt::Debug;
use std::sync::Arc;

/// A device with registers on the bus.
pub(crate) trait BusDevice: Debug + Send + Sync {
    /// Answers a guest's read at an offset of the device's window.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes a guest's write at an offset of the device's window.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A machine's devices, by address.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    /// In rising order of their addresses.
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    start: u64,
    size: u64,
    device: Arc<dyn BusDevice>,
}

impl Bus {
    /// Adds a device. Its window must not overlap another.
    pub(crate) fn add(&mut self, start: u64, size: u64, device: Arc<dyn BusDevice>) {
        let after = self.windows.partition_point(|window| window.start <= start);
        self.windows.insert(after, Window { start, size, device });
    }

    /// Answers a guest's read.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Takes a guest's write.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&dyn BusDevice, u64)> {
        let after = self.windows.partition_point(|window| window.start <= address);
        let window = self.windows.get(after.checked_sub(1)?)?;
        let offset = address - window.start;
        (offset < window.size).then_some((&*window.device, offset))
    }
}
