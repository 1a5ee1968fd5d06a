//! What the layouts of all architectures have in common.

/// Slots that a machine has.
pub const SLOTS: u8 = 16;
/// The slot of the socket device.
pub const VSOCK_SLOT: u8 = 0;
/// The slot of the random device.
pub const RNG_SLOT: u8 = 1;
/// The slot of the root file system.
pub const ROOT_SLOT: u8 = 2;
/// The first of the slots of volumes; empty in a machine without any.
pub const FIRST_VOLUME_SLOT: u8 = 3;
/// The most volumes.
pub const MAX_VOLUMES: u8 = 4;
/// The first of the slots of folders of the host; empty in a machine without any.
pub const FIRST_SHARE_SLOT: u8 = 7;
/// The most folders of the host.
pub const MAX_SHARES: u8 = 8;
/// The slot of the network interface; empty in a machine without one.
pub const NET_SLOT: u8 = 15;

/// The least RAM of a machine in bytes: what the kernel and the boot data take.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most vCPUs of a machine.
pub const MAX_VCPUS: u16 = 32;

/// The guest's context id on the socket device.
pub const GUEST_CID: u64 = 3;
