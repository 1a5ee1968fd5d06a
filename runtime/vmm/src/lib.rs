//! One microVM: memory, vCPUs, devices. A machine starts in one way: restored from a snapshot.
//!
//! This is the layer below `supermachine::Vm`, and `supermachine-baker` makes snapshots with it.
//! Applications use `supermachine`.
//!
//! The interface of a machine is small on purpose, so that a worker process can stand behind it:
//! [`Machine::restore`], [`Machine::run`] and [`Machine::reset`], [`Machine::pause`] and
//! [`Machine::resume`], [`Machine::connect`] and [`Machine::control`], which return streams,
//! [`Machine::capture`] and [`Machine::capture_live`], [`Machine::console`] and
//! [`Machine::failure`]. Such a process calls [`host::open_ahead`] and needs no file system then:
//! memory, disks and captures are descriptors.
//!
//! Three seams keep platforms apart. `arch` is about a processor architecture, `backend` about a
//! hypervisor, `os` about an operating system. `devices` and `machine` are the same everywhere.

pub mod arch;
mod backend;
mod devices;
mod error;
mod file_failure;
pub mod host;
mod machine;
mod memory;
mod os;

pub use arch::layout;
pub use backend::HypervisorError;
pub use devices::{DeviceError, FileServer, FrameLink, Known, Streams, VolumeDisk};
pub use error::{GuestFailure, MachineError};
pub use file_failure::file_failure;
pub use machine::{
    Captured, Ends, ExitWatch, HostShare, HostVolume, Machine, Origin, Restore, RestoreMode,
    Timings, block_disk, boot_slots, can_page_on_demand, mapped_disk, realtime_ns, reset_serial,
    share_slots, share_tag, volume_slots,
};
pub use memory::{ChunkAddress, Chunks, DirtyPages, MemoryFiles, Overlay, RamWindow, ReadRecorder};
pub use os::{
    Interest, Poller, Readiness, Trigger, Waker, fill_random, receive_now, reserve_mapped,
    send_now, shut_down, threads_for,
};
