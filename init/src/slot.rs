//! The machine's slots: what was empty at boot may be filled.

use core::ffi::CStr;

use linux_raw_sys::general as nr;
use supermachine_formats::wire::Failure;

use crate::failure::{OrFailure, failure};
use crate::sys::{Errno, clock, fd, poll, slot_device};

const BIND: &CStr = c"/sys/bus/platform/drivers/virtio-mmio/bind";
const UNBIND: &CStr = c"/sys/bus/platform/drivers/virtio-mmio/unbind";

/// How long a probed device may take to appear.
const DEVICE_TIMEOUT: u64 = 5_000_000_000;
/// How soon a disk that has a name but cannot be opened is tried again, in nanoseconds.
const NAMED_TO_OPEN: u64 = 500_000;
/// Probes a slot again. A slot that is already bound is not an error.
pub(crate) fn probe(slot: u8) -> Result<(), Failure> {
    let name = slot_device(slot);
    match fd::set(BIND, name.as_bytes()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(failure("bind", name, errno)),
    }
}

/// Takes a slot's device from the kernel. A slot that is not bound is not an error.
pub(crate) fn release(slot: u8) -> Result<(), Failure> {
    let name = slot_device(slot);
    match fd::set(UNBIND, name.as_bytes()) {
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(errno) => Err(failure("unbind", name, errno)),
    }
}

/// Waits for a device node, which may appear shortly after its probe.
pub(crate) fn wait_for_device(device: &CStr) -> Result<(), Failure> {
    let name = device.to_bytes();
    let watch = poll::watch_directory(c"/dev").or_failure("inotify_add_watch", "/dev")?;
    let end = clock::monotonic().saturating_add(DEVICE_TIMEOUT);
    loop {
        let left = end.saturating_sub(clock::monotonic());
        let pause = match fd::open(device, nr::O_RDONLY, 0) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => left,
            // The kernel creates a disk's node shortly before it can be opened, without a notification.
            Err(Errno::NXIO) => left.min(NAMED_TO_OPEN),
            Err(errno) => return Err(failure("open", name, errno)),
        };
        if left == 0 {
            return Err(failure("wait for device", name, Errno::TIMEDOUT));
        }
        if poll::wait_readable(&watch, pause).or_failure("poll", "/dev")? {
            let mut news = [0; 512];
            fd::read(&watch, &mut news).or_failure("read", "/dev")?;
        }
    }
}
