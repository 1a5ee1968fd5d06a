//! The sizes of disks, in bytes.

/// The size of the empty file system. A guest grows it to the size of its disk.
pub(super) const MIN_SIZE: u64 = 64 << 20;
/// The largest disk: as much as an ext4 file of a host holds.
pub(super) const MAX_SIZE: u64 = 16 << 40;
/// The size of a volume for which none is named. It takes no room until it is used.
pub(super) const DEFAULT_SIZE: u64 = 8 << 30;
